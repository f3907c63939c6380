-- hello and bye: which task types there are, who serves them, and how a
-- worker's row ends. See core/model/hello.c.
-- TYPE: 1 name, 2 signature, 3 options, 4 version, 5 crashes, 6 named.
lazy(function()
local function type_key(name, version) return version .. ':' .. name end
local function type_find(name, version) -- version 0: the newest
    return tonumber(hget(hash(P .. 'typeid'), type_key(name, version)) or nil)
end
dt.type_find = type_find

-- Writes what a worker or a client says of a type; a client only what is absent.
local function declare(t, worker, system)
    local name, version = t[1], t[4]
    local said, options, crashes = t[2] or '', t[3] or '', t[5] or 0
    local no = type_find(name, version)
    if not no then
        no = meta.next_type
        meta.next_type = no + 1
        local newest = type_find(name, 0)
        local before = newest and type_row(newest)
        type_put({no = no, paused = 0, type_version = version, crashes = crashes, vmin = 0, workers = 0, served = worker and 1 or 0,
            system = system and 1 or 0, listeners = before and before.listeners or 0, name = name}, said, options)
        hset(hash(P .. 'typeid'), type_key(name, version), tostring(no))
        if not before or before.type_version < version then hset(hash(P .. 'typeid'), type_key(name, 0), tostring(no)) end
    else
        local row = dt.type_mut(no)
        local signature, had = type_texts(no)
        if said ~= '' and (worker or signature == '') then signature = said end
        if (worker or row.served == 0) and (worker or had == '') then
            had = options
            row.crashes = crashes
        end
        if worker then row.served = 1 end
        type_put(row, signature, had)
    end
    return no
end

function dt.type_system(name) return declare({name, '', '', 1, 3}, false, true) end

-- A signature is what its live workers agree on: with none left, another one
-- may come. The replies: no, refused, registered.
local function refuse(types_said, worker)
    local any, replies = false, {}
    for i, t in ipairs(types_said) do
        local no = type_find(t[1], t[4])
        local row, refused, have = no and type_row(no), false, ''
        if row and (t[2] or '') ~= '' then
            have = type_texts(no)
            refused = not t[6] and have ~= '' and have ~= t[2] and (not worker or row.workers ~= 0)
        end
        replies[i] = {no or 0, refused, refused and have or ''}
        any = any or refused
    end
    return any, replies
end

local function listen(said, replies, listens)
    local h = hash(P .. 'listen')
    for field, s in pairs(hall(h)) do -- what these types listened to before; who serves one knows
        local _, listener = unpack_s('>BI4', field)
        for i, r in ipairs(replies) do
            if s and r[1] == listener and not said[i][6] then hset(h, field, false) end
        end
    end
    for _, l in ipairs(listens) do -- 1 listener, 2 subject, 3 kind, 4 states, 5 filter
        local name = ''
        if l[2] == U32 then
            meta.any_root = 1
        else
            name = said[l[2] + 1][1]
            for no = 1, meta.next_type - 1 do -- all its versions
                local row = type_row(no)
                if row and row.name == name then dt.type_mut(no).listeners = 1 end
            end
        end
        hset(h, pack('>BI4', l[3], replies[l[1] + 1][1]) .. name, mp(l[4], l[5] or ''))
    end
end

local function worker_begin(name, lease_us, said, replies)
    local no = meta.next_worker
    meta.next_worker = no + 1
    local w = {dead = 0, no = no, nonce = ZERO8, next_wake = 0, lease_us = lease_us, expires = 0, since = now, name = name}
    if lease_us ~= 0 then
        w.expires = now + lease_us
        lapse(w.expires, LAPSE_WORKER, no)
        if meta.lease_us < lease_us then meta.lease_us = lease_us end
    end
    worker_put(w)
    hset(hash(P .. 'workerid'), name, tostring(no))
    local l = {}
    for type_no = 1, meta.next_type - 1 do
        local row = type_row(type_no)
        local is = row and row.system ~= 0
        for i, r in ipairs(replies) do is = is or (row and r[1] == type_no and not said[i][6]) end
        if is then
            row = dt.type_mut(type_no)
            row.workers = row.workers + 1
            insert(l, type_no)
        end
    end
    hset(hash(P .. 'serves'), tostring(no), mp(l))
    return no
end

-- 2 name, 3 lease_us, 4 types, 5 listens, 6 bye, 7 worker, 8 was; reply: worker, [no, refused, registered]*.
function dt.op_hello(h)
    local name, said, listens = h[2] or '', h[4] or NONE, h[5] or NONE
    if h[6] then
        local w = worker_at(h[7])
        if w and w.dead == 0 then dt.worker_end(w, false) end
        local none = {}
        for i = 1, #said do none[i] = NONE end
        return {h[7], none}
    end
    local worker = name ~= ''
    for _, t in ipairs(said) do
        if (t[1] or '') == '' or #t[1] > 200 or (t[4] or 0) == 0 then
            return nil, EARGS, 'a task type needs a name of 1 to 200 bytes and a version from 1'
        end
    end
    for i, l in ipairs(listens) do
        if l[1] >= #said or (l[2] >= #said and l[2] ~= U32) or l[3] > 1 or (l[3] == 1 and l[2] == U32) then
            return nil, EARGS, format('listener %d names a type that is not declared with it', i - 1)
        end
        l[4] = l[4] or 0
    end
    if #name > 64 then return nil, EARGS, "a worker's name has at most 64 bytes" end
    local last = worker and h[8] and tonumber(hget(hash(P .. 'workerid'), h[8]) or nil)
    local before = last and worker_at(last)
    if before and before.dead == 0 then dt.worker_end(before, false) end
    local have = worker and tonumber(hget(hash(P .. 'workerid'), name) or nil)
    if have then -- said before; its types stand
        local _, replies = refuse(said, false)
        return {have, replies}
    end
    local any, replies = refuse(said, worker)
    if any and worker then return {0, replies} end
    for i, t in ipairs(said) do replies[i][1] = declare(t, worker and not t[6], false) end
    if not worker then return {0, replies} end
    listen(said, replies, listens)
    return {worker_begin(name, h[3] or 0, said, replies), replies}
end

-- ---- how a worker ends ----------------------------------------------------------------
-- From here on all its messages are refused; what it held goes step by step.
function dt.worker_end(w, charge)
    w.dead = 1
    w.expires = now
    for _, no in ipairs(serves(w.no) or NONE) do
        local row = dt.type_mut(no)
        if row and row.workers ~= 0 then row.workers = row.workers - 1 end
    end
    hset(hash(P .. 'serves'), tostring(w.no), false)
    lapse(now + 86400000000, LAPSE_GONE, w.no) -- its name is still asked for
    insert(fx.left, w.no)
    dt.push(DO_WORKER, w.no, 0, 0, charge and 1 or 0)
end

function dt.do_worker(d)
    local i = 0
    while dt.spend(i) do
        i = i + 1
        local wakes = wakes_of(d.job)
        local e = front(wakes)
        if e then -- woken, and it never heard of it: not to blame
            zdel(wakes, e.m)
            local t = task(e.job, e.ord)
            if t and t.owner == d.job and t.token == e.token and t.state == RUNNING then dt.lose(t, false) end
        else
            e = held_front(d.job)
            if not e then return false end
            local t = task(e.job, e.ord)
            if not t then held_drop(d.job, e.token) else dt.lose(t, d.arg ~= 0) end
        end
    end
    return true
end
end)
