-- read: rows, for people, waiters and re-runs. Writes nothing. See core/model/read.c.
-- 2 what, 3 id, 4 job, 5 ord, 6 from, 7 limit, 8 version, 9 state, 10 before, 11 whole; reply: n, more, next, items.
lazy(function()
-- TASK: job, ord, id, row, type, by, args, result, error, progress, state, mail, deps.
local function task_view(id, r, whole)
    local by = r.by ~= 0 and worker_seen(r.by)
    local v = {r.job, r.ord, id, row_bytes(r), dt.type_name(r.type), by and by.name or ''}
    if not whole then return v end
    local no, ord, bits = r.job, r.ord, r.bits
    v[7] = data_get(no, ord, D_ARGS)
    v[8] = data_get(no, ord, D_RESULT)
    v[9] = band(bits, HAS_ERROR) ~= 0 and data_get(no, ord, D_ERROR) or ''
    v[10] = band(bits, HAS_PROGRESS) ~= 0 and data_get(no, ord, D_PROGRESS) or ''
    v[11] = band(bits, HAS_STATE) ~= 0 and data_get(no, ord, D_STATE) or ''
    if r.state >= SUCCEEDED then v[12] = dt.mail_of(0, r) end
    if r.state == FAILED and r.reason == R_CHILDREN and band(bits, HAS_DEPS) ~= 0 then v[13] = data_get(no, ord, D_DEPS) end
    return v
end

-- JOB: no, id, type, tags, row, TASK.
local function job_view(no)
    local j, root = job_seen(no), look(no, 0)
    if not j or not root then return end
    local id = data_get(no, 0, D_ID)
    return {no, id, dt.type_name(j.type), data_get(no, 0, D_TAGS), j.touched and pack_job(j) or j.raw, task_view(id, root, true)}
end

local function read_kids(no, id, ord, from, limit, whole)
    local l, at, next = {}, from, 0
    dt.rows_ahead(no, at, min(limit, CHILDREN_MAX))
    while true do
        local r = at ~= 0 and look(no, at)
        if not r or r.parent ~= ord then -- the next run
            at = dt.kids_from(no, ord, at)
            if not at then return {#l, false, next, l} end
            dt.rows_ahead(no, at, min(limit, CHILDREN_MAX))
            r = look(no, at)
            if not r then return {#l, false, next, l} end
        end
        if #l == limit then return {#l, true, at, l} end
        insert(l, task_view(id, r, whole))
        at = at + 1
        next = at
    end
end

-- TYPE: row, name, signature, options.
local function type_view(no)
    local r = type_row(no)
    if not r then return {} end
    local signature, options = type_texts(no)
    return {pack_type(r), r.name, signature, options}
end

local function read_types(from, limit)
    local l, next = {}, 0
    for no = from ~= 0 and from or 1, meta.next_type - 1 do
        if #l == limit then return {#l, true, next, l} end
        insert(l, type_view(no))
        next = no + 1
    end
    return {#l, false, next, l}
end

-- Newest first: the states' lists are merged by job no.
local function read_jobs(state, before_no, limit)
    dt.flush()
    local lists_of, l = {}, {}
    for s = JOB_RUNNING, JOB_CANCELLED do
        if state < 0 or state == s then
            lists_of[s] = call('ZREVRANGEBYSCORE', P .. 'jobs:' .. s, before_no ~= 0 and '(' .. format('%.0f', before_no) or '+inf', '-inf', 'LIMIT', 0, limit + 1)
            lists_of[s].at = 1
        end
    end
    while true do
        local best, of = 0, nil
        for _, got in pairs(lists_of) do
            local no = tonumber(got[got.at]) or 0
            if no > best then best, of = no, got end
        end
        if best == 0 then return {#l, false, 0, l} end
        if #l == limit then return {#l, true, 0, l} end
        of.at = of.at + 1
        local v = job_view(best)
        if v then insert(l, v) end
    end
end

local function read_workers(from, limit)
    local l, next = {}, 0
    for _, no in ipairs(serving(from)) do
        if #l == limit then return {#l, true, next, l} end
        local w = worker_seen(no)
        if w then
            insert(l, {pack_worker(w)})
            next = no + 1
        end
    end
    return {#l, false, next, l}
end

function dt.op_read(q)
    local what, id, limit = q[2], q[3] or '', q[7] or 0
    if limit == 0 then limit = 1000 end
    if what == 4 then
        local no = q[8] or 0
        if id ~= '' then no = dt.type_find(id, no) end
        if not no or no == 0 or not type_row(no) then return {0} end
        return {1, false, 0, {type_view(no)}}
    end
    if what == 5 then return read_types(q[6] or 0, limit) end
    if what == 6 then return read_jobs(q[9] or 0, q[10] or 0, limit) end
    if what == 7 then return read_workers(q[6] or 0, limit) end
    local no = q[4] or 0
    if no == 0 then no = dt.job_find(id) end
    if not no then return {0} end
    if what == 0 then
        local v = job_view(no)
        return v and {1, false, 0, {v}} or {0}
    end
    local ord = q[5] or 0
    if what == 3 then
        local l, more, next = dt.mails(no, ord == U32 and EMITS or ord, q[6] or 0, limit, true)
        return {#l, more, next, l}
    end
    id = data_get(no, 0, D_ID)
    if what == 2 then return read_kids(no, id, ord, q[6] or 0, limit, q[11]) end
    local r = look(no, ord)
    if not r or id == '' then return {0} end
    return {1, false, 0, {task_view(id, r, true)}}
end
end)
