-- What hangs on a task or stands by itself: kids rows, dependents, the log,
-- limits, types, workers; and dt.flush, which writes what has changed.

local kids_list, kids_load, kid_at, kids_add, kids_pop, kids_flush
room(function()
-- ---- kids: in rising order of their first ordinal -----------------------------------
-- Up to four lie with the task's data, more in a list of their own.
function kids_list(j, ord, nkids)
    local lists_of = j.kid_lists
    if not lists_of then
        lists_of = {}
        j.kid_lists = lists_of
    end
    local l = lists_of[ord]
    if not l then
        l = {j = j, ord = ord, key = P .. 'k:' .. j.no .. ':' .. ord, big = nkids > 4, win = nkids == 0 and {} or nil, add = {}, at = 1}
        lists_of[ord] = l
    end
    return l
end

function kids_load(l)
    if l.win then return end
    local win = {}
    if l.big then
        win = call('LRANGE', l.key, 0, -1)
    else
        local s = data_raw(l.j, l.ord, D_KIDS) or ''
        for i = 1, #s, 16 do win[(i + 15) / 16] = sub(s, i, i + 15) end
    end
    l.win = win
end

function kid_at(l, i)
    local win = l.win
    local k = win[i]
    if not k then return l.add[i - #win] end
    if type(k) == 'string' then
        local s = k
        k = {raw = s}
        k.first, k.count, k.attempt, k.seq = unpack_s('<I4I4I4I4', s)
        win[i] = k
    end
    return k
end

local function kid_bytes(k)
    if type(k) == 'string' then return k end
    return k.raw or pack('<I4I4I4I4', k.first, k.count, k.attempt, k.seq)
end

-- The place of the first row from ordinal `from` on, and the row.
local function kid_find(l, from)
    kids_load(l)
    local lo, hi = l.at, #l.win + #l.add + 1
    while lo < hi do
        local mid = floor((lo + hi) / 2)
        if kid_at(l, mid).first >= from then hi = mid else lo = mid + 1 end
    end
    return lo, kid_at(l, lo)
end

-- The first ordinal of the first run of children from `from` on; nil: none.
function dt.kids_from(no, ord, from)
    local r = look(no, ord)
    if not r or r.nkids == 0 then return end
    local _, k = kid_find(kids_list(r.j, ord, r.nkids), from)
    return k and k.first
end

local function kids_touch(l)
    if not l.touched then
        l.touched = true
        kids_touched[#kids_touched + 1] = l
    end
end

function kids_add(t, k) -- before t.nkids counts it
    local l = kids_list(t.j, t.ord, t.nkids)
    l.add[#l.add + 1] = k
    kids_touch(l)
end

function kids_pop(t) -- takes the first away; false: there is none
    local l = kids_list(t.j, t.ord, t.nkids)
    kids_load(l)
    if l.at > #l.win + #l.add then return false end
    l.at = l.at + 1
    kids_touch(l)
    return true
end

function kids_flush(l)
    l.touched = nil
    if l.j.gone_whole then
        if l.big then return call('DEL', l.key) end
        if l.ord == 0 then return end
    end
    if not l.big then kids_load(l) end
    local a = {}
    if l.big then
        if l.at > 1 then call('LTRIM', l.key, l.at - 1, -1) end
        for i = 1, #l.add do a[i] = kid_bytes(l.add[i]) end
    else
        for i = l.at, #l.win + #l.add do a[#a + 1] = kid_bytes(kid_at(l, i)) end
        local few = #l.win + #l.add <= 4
        local s = few and concat(a) or ''
        local field = l.ord == 0 and KIND[D_KIDS] or DATA[D_KIDS][l.ord % 64]
        hset(l.ord == 0 and l.j.h or data_bucket(l.j, l.ord), field, s ~= '' and s)
        if few then a = {} else l.big = true end
    end
    if #a > 0 then call('RPUSH', l.key, unpack(a)) end
    l.j.kid_lists[l.ord] = nil -- to be read anew
end
end)

-- ---- edges: those that wait for a sibling, in rising order -------------------------------
local function edges_of(no, dep) return fifo(P .. 'e:' .. no .. ':' .. dep) end

local log_hash, log_end, log_from, log_write
room(function()
-- ---- the log ---------------------------------------------------------------------------
function log_hash(no, ord) return hash(P .. 'l:' .. no .. ':' .. ord) end

function log_end(no, ord) -- of its entries
    if ord == EMITS then
        local j = job_seen(no)
        return j and j.log_n or 0
    end
    local r = look(no, ord)
    return r and r.logn or 0
end

-- The first entry from n on: its place, its row.
function log_from(no, ord, n, last)
    local h
    last = last or log_end(no, ord)
    while n < last do
        h = h or log_hash(no, ord)
        local s = h.f[n]
        if s == nil then
            if h.whole then
                s = false
            else
                local fields = {}
                for i = n, min(last - 1, n + 63) do fields[#fields + 1] = i end
                ahead(h, fields)
                s = h.f[n]
            end
        end
        if s then
            local version, kind, of, time, name_n, at = unpack_s('<BBI4I7I4', s)
            return n, {kind = kind, ord = of, time = time, name = sub(s, at, at + name_n - 1), data = sub(s, at + name_n)}
        end
        n = n + 1
    end
end

function log_write(no, ord, n, kind, of, name, data)
    hset(log_hash(no, ord), n, pack('<BBI4I7I4', 1, kind, of, now, #name) .. name .. data)
end
end)

-- ---- limits, unique keys ------------------------------------------------------------------
-- Known by plain bytes where C has a hash of them.
local function limit_at(key)
    local l = limits[key]
    if l == nil then
        local s = hget(hash(P .. 'limit'), key)
        l = false
        if s then
            l = {of = key, kind = 'w:', x = {}}
            l.no, l.max, l.used, l.head, l.tail = unpack_s('<I6I7I6i5i5', s)
        end
        limits[key] = l
    end
    if l and not l.touched then
        l.touched = true
        limit_touched[#limit_touched + 1] = l
    end
    return l or nil
end

local function limit_new(key, no)
    local l = {of = key, no = no, max = 0, used = 0, head = 0, tail = 0, kind = 'w:', x = {}, touched = true}
    limits[key] = l
    limit_touched[#limit_touched + 1] = l
    return l
end

local function limit_gone(l)
    l.gone = true
    limits[l.of] = false
end

local function limit_flush(l)
    l.touched = nil
    if l.gone then
        ext_flush(l)
        if limits[l.of] == false then hset(hash(P .. 'limit'), l.of, false) end
        return
    end
    ext_flush(l)
    hset(hash(P .. 'limit'), l.of, pack('<I6I7I6i5i5', l.no, l.max, l.used, l.head, l.tail))
end

local function uniq_at(key)
    local s = hget(hash(P .. 'uniq'), key)
    return s and unpack_uniq(s) or nil
end
local function uniq_put(key, u) hset(hash(P .. 'uniq'), key, u and pack_uniq(u)) end

-- ---- types, workers --------------------------------------------------------------------------
function dt.type_row(no)
    local r = types[no]
    if r == nil then
        local s = hget(hash(P .. 'types'), no)
        r = s and unpack_type(s) or false
        types[no] = r
    end
    return r or nil
end
local type_row = dt.type_row

function dt.type_mut(no)
    local r = type_row(no)
    if r and not r.touched then
        r.touched = true
        type_touched[#type_touched + 1] = r
    end
    return r
end

local function type_texts(no) -- signature, options: apart, for they are long
    local s = hget(hash(P .. 'texts'), no)
    if not s then return '', '' end
    return mpu(s)
end

local function type_put(row, signature, options)
    if not row.touched then
        row.touched = true
        type_touched[#type_touched + 1] = row
    end
    types[row.no] = row
    hset(hash(P .. 'texts'), row.no, mp(signature, options))
end

function dt.type_name(no)
    local r = type_row(no)
    return r and r.name or ''
end

local function worker_seen(no)
    local w = workers[no]
    if w == nil then
        local s = hget(hash(P .. 'workers'), no)
        w = s and unpack_worker(s) or false
        workers[no] = w
    end
    return w or nil
end

local function worker_at(no)
    local w = worker_seen(no)
    if w and not w.touched then
        w.touched = true
        worker_touched[#worker_touched + 1] = w
    end
    return w
end

local function worker_put(w)
    workers[w.no] = w
    w.touched = true
    worker_touched[#worker_touched + 1] = w
end

local function worker_gone(w)
    w.gone = true
    workers[w.no] = false
    hset(hash(P .. 'workers'), w.no, false)
    hset(hash(P .. 'workerid'), w.name, false)
end

-- Workers that said hello and have not ended: no -> their types.
local function serves(no)
    local s = hget(hash(P .. 'serves'), tostring(no))
    return s and mpu(s) or nil
end
local function serving(from) -- in rising order
    local l = {}
    for no, s in pairs(hall(hash(P .. 'serves'))) do
        no = tonumber(no)
        if s and no >= from then l[#l + 1] = no end
    end
    table.sort(l)
    return l
end

-- ---- the shard's own row -----------------------------------------------------------------------
local META = {'shards', 'read_min', 'write', 'salt', 'era', 'next_job', 'next_type', 'next_lane', 'next_limit', 'next_worker', 'next_todo',
    'next_lapse', 'todo_n', 'room_n', 'lease_us', 'last_time', 'resumed', 'drain_asked', 'undo_type', 'any_root', 'run_id'}

local meta_table = {} -- of all runs: it never grows again
local function meta_load()
    local s = call('GET', P .. 'meta')
    if not s then return end
    local v = {mpu(s)}
    meta = meta_table
    meta.raw = s
    -- The order of the first three never changes.
    if v[2] > 1 then raise(EVERSION, 'the shard has schema %d, this release reads up to 1: upgrade dynatask', v[3]) end
    if v[3] < 1 then raise(EVERSION, 'the shard has schema %d, this release reads from 1: run the release between', v[3]) end
    for i = 1, #META do meta[META[i]] = v[i] end
    return meta
end

-- ---- writing ----------------------------------------------------------------------------------------
room(function()
local function meta_flush()
    local v = {}
    for i = 1, #META do v[i] = meta[META[i]] end
    local s = mp(unpack(v))
    if s ~= meta.raw then
        meta.raw = s
        call('SET', P .. 'meta', s)
    end
end

local function hash_flush(h)
    local set, d = h.w, h.d
    h.w, h.d = nil, nil
    local n = #set
    if n > 0 and n <= 4000 then call('HSET', h.key, unpack(set))
    else
        for i = 1, n, 4000 do call('HSET', h.key, unpack(set, i, min(i + 3999, n))) end
    end
    if not d then return end
    local rem = {}
    for field in pairs(d) do rem[#rem + 1] = field end
    for i = 1, #rem, 4000 do call('HDEL', h.key, unpack(rem, i, min(i + 3999, #rem))) end
end

-- A right that this user lacks must not leave half of what was decided: all
-- that is written from here on is asked for ahead of it. What the bells want
-- too, for a call that has failed is made again.
local WRITES = {
    {'SET', 'v'}, {'DEL'}, {'HSET', 'f', 'v'}, {'HDEL', 'f'}, {'SADD', 'm'}, {'SREM', 'm'}, {'ZADD', 0, 'm'}, {'ZREM', 'm'},
    {'RPUSH', 'v'}, {'LTRIM', 0, 0}, {'ZPOPMAX'}, {'EXPIRE', 1}, {'GET'}, {'EXISTS'},
}

local function may_write()
    local may = redis.acl_check_cmd
    for i = 1, #WRITES do
        local w = WRITES[i]
        if not may(w[1], P, unpack(w, 2)) then raise(EENGINE, 'this user lacks the right to %s: nothing was changed, the list is in docs/redis.md', w[1]) end
    end
    if not may('PUBLISH', P .. 'b:', '') then raise(EENGINE, 'this user lacks the right to PUBLISH: nothing was changed, the list is in docs/redis.md') end
end

function dt.flush()
    if dt.writes and not dt.asked then
        may_write()
        dt.asked = true
    end
    dt.flushed = true
    meta_flush()
    for i = 1, #tasks do
        local t = tasks[i]
        if not t.gone and not t.j.gone_whole then
            local s = row_bytes(t)
            if s ~= t.raw then
                t.raw = s
                local ord = t.ord
                if ord == 0 then hset(t.j.h, 'r', s) else hset(row_bucket(t.j, ord), ROW[ord % 64], s) end
            end
        end
        t.hand = false
    end
    for i = 1, #lanes_touched do lane_flush(lanes_touched[i]) end
    for i = 1, #kids_touched do kids_flush(kids_touched[i]) end
    for i = 1, #touched_jobs do
        local j = touched_jobs[i]
        j.touched = nil
        if not j.gone_whole then
            local s = pack_job(j)
            if s ~= j.raw then
                j.raw = s
                hset(j.h, 'j', s)
            end
        end
    end
    for i = 1, #type_touched do
        local r = type_touched[i]
        r.touched = nil
        local s = pack_type(r)
        if s ~= r.raw then
            r.raw = s
            hset(hash(P .. 'types'), r.no, s)
        end
    end
    for i = 1, #worker_touched do
        local w = worker_touched[i]
        w.touched = nil
        if not w.gone then hset(hash(P .. 'workers'), w.no, pack_worker(w)) end
    end
    for i = 1, #limit_touched do limit_flush(limit_touched[i]) end
    for i = 1, #dels do
        dels[i].w = nil
        dels[i] = dels[i].key
    end
    for i = 1, #dirty do
        if dirty[i].w then hash_flush(dirty[i]) end
    end
    for i = 1, #dels, 4000 do call('DEL', unpack(dels, i, min(i + 3999, #dels))) end
    for i = 1, #zdirty do
        local z = zdirty[i]
        zflush(z)
        zsets[z.key] = nil -- to be read anew
    end
    absent = {}
    held_flush()
    for key, l in pairs(lists) do
        fifo_flush(l)
        lists[key] = nil
    end
    for state, l in pairs(listed) do
        local add, rem = {}, {}
        for no, there in pairs(l) do
            if there then
                add[#add + 1] = no
                add[#add + 1] = no
            else
                rem[#rem + 1] = no
            end
        end
        for i = 1, #rem, 4000 do call('ZREM', P .. 'jobs:' .. state, unpack(rem, i, min(i + 3999, #rem))) end
        for i = 1, #add, 4000 do call('ZADD', P .. 'jobs:' .. state, unpack(add, i, min(i + 3999, #add))) end
    end
    tasks, touched_jobs, type_touched, worker_touched, limit_touched, lanes_touched, kids_touched = {}, {}, {}, {}, {}, {}, {}
    dirty, dels, zdirty, listed, turnqs = {}, {}, {}, {}, {}
end
end)
