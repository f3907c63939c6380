-- A job's frame: how it begins, how it ends with its root, what is kept of
-- it, and how its rows go. See core/model/jobs.c.
room(function()
local function index_job(j, to)
    list_job(j, j.state, false)
    j.state = to
    list_job(j, to, true)
end
dt.index_job = index_job

-- START: 2 id, 3 NEW, 4 tags, 5 trigger, 6 of, 7 max_tasks, 8 max_depth, 9 keep, 10 retain_us, 11 grace_us,
-- 12 blob_min.
-- skipped_for: the note of the task that holds the unique key; else ''.
-- failed_for: an error, with which it ends at once; or nothing.
function dt.job_begin(s, hook_of, skipped_for, failed_for)
    local no = meta.next_job
    meta.next_job = no + 1
    local id, new = s[2], s[3]
    local j = job_new(no, s[9] or 0, new[1], s[10] or 0, s[11] or 0)
    if (s[7] or 0) ~= 0 then j.max_tasks = s[7] end
    if (s[8] or 0) ~= 0 then j.max_depth = s[8] end
    if (s[6] or 0) ~= 0 then j.of = s[6] end
    if (s[12] or 0) ~= 0 then j.blob_min = s[12] end
    if hook_of ~= 0 then j.hook_of = hook_of end
    list_job(j, JOB_RUNNING, true)
    hset(hash(P .. 'ids'), id, j.h.name)

    local t = dt.task_make(j, 0, new)
    data_set(t, D_ID, id)
    if (s[4] or '') ~= '' then data_set(t, D_TAGS, s[4]) end
    if (s[5] or '') ~= '' then data_set(t, D_TRIGGER, s[5]) end
    if skipped_for ~= '' then
        data_set(t, D_ERROR, skipped_for)
        t.bits = bor(t.bits, HAS_ERROR)
        dt.finish(t, SKIPPED, R_UNIQUE)
    elseif failed_for then
        data_set(t, D_ERROR, failed_for)
        t.bits = bor(t.bits, HAS_ERROR)
        dt.finish(t, FAILED, R_NONE)
    else
        dt.admit(t)
    end
    return no
end

function dt.job_end(root)
    local j, v = root.j, root.state
    index_job(j, j.state == JOB_CANCELLING and JOB_CANCELLED or bad(root) and JOB_FAILED or v == SUCCEEDED and JOB_SUCCEEDED or JOB_CANCELLED)
    j.ended = now
    -- A trigger's test said no: that it was asked leaves nothing.
    lapse(root.reason == R_TEST and now or now + j.retain_us, LAPSE_RETAIN, j.no)
    if j.lanes ~= 0 then dt.push(DO_LANES, j.no, 0, 0, 0) end
    if j.hook_of ~= 0 then
        local of = dt.job(j.hook_of)
        if of and of.hooks ~= 0 then of.hooks = of.hooks - 1 end
    end
    insert(fx.ended, hget(j.h, '8') or '')
    insert(fx.ends, {j.no, 0})
    if root.reason ~= R_TEST and hget(hash(P .. 'done'), 'on') then dt.done_keep(root) end
end

function dt.do_lanes(d)
    local j = dt.job(d.job)
    if not j or j.lanes == 0 then return false end
    if dt.lane_drain(j.lanes, d.job, CHUNK) then return true end
    local lane = lane_at(floor(j.lanes / 8), d.job, j.lanes % 8)
    j.lanes = lane and lane.next or 0
    if lane then lane_gone(lane) end
    return j.lanes ~= 0
end

-- ---- payloads: until the parent completes, then as `keep` says --------------------------
-- All but arguments and result, which most tasks have alone. False: a key
-- that others may still join pins them.
local function drop_extras(no, ord)
    local t = task(no, ord)
    if not t then return false end
    local gone = HAS_DEPS + HAS_STATE + HAS_PROGRESS + HAS_ERROR
    local bits = t.bits
    if band(bits, HAS_KEYS) ~= 0 then
        local forever, i, s = false, 1, dt.key_at(t, 1) -- once in the job's life: the purge will want to know
        while s do
            if s[2] == 1 then
                local u = dt.unique_find(dt.key_of(s, no))
                if u and u.job == no and u.ord == ord then
                    if s[5] == 0 then return false end
                    forever = true
                end
            end
            i = i + 1
            s = dt.key_at(t, i)
        end
        if not forever then
            data_set(t, D_KEYS, false)
            t.keys = nil
            gone = gone + HAS_KEYS
        end
    end
    if band(bits, HAS_DEPS) ~= 0 then data_set(t, D_DEPS, false) end
    if band(bits, TELLS) ~= 0 then dt.told_clear(t) end
    if band(bits, HAS_STATE) ~= 0 then data_set(t, D_STATE, false) end
    if band(bits, HAS_PROGRESS) ~= 0 then data_set(t, D_PROGRESS, false) end
    if band(bits, HAS_ERROR) ~= 0 then data_set(t, D_ERROR, false) end
    t.bits = t.bits - band(t.bits, gone)
    return true
end

local EXTRAS = HAS_KEYS + HAS_DEPS + TELLS + HAS_STATE + HAS_PROGRESS + HAS_ERROR

local function drop_values(j, ord)
    data_put(j, ord, D_ARGS, false)
    data_put(j, ord, D_RESULT, false)
end

local function drop_payload(j, r)
    if r.state == FAILED and j.keep == KEEP_FAILED then return end
    if band(r.bits, EXTRAS) ~= 0 and not drop_extras(j.no, r.ord) then return end
    drop_values(j, r.ord)
end

function dt.do_drop(d)
    local j, i = dt.job(d.job), 0
    if j and d.arg == 0 then dt.rows_ahead(d.job, d.cursor, CHUNK) end
    while j and dt.spend(i) do
        i = i + 1
        local parent, state = dt.over_plain(j, d.cursor)
        if parent == d.ord then
            if state ~= FAILED or j.keep ~= KEEP_FAILED then drop_values(j, d.cursor) end
        else
            local r = look(d.job, d.cursor)
            if not r or r.parent ~= d.ord then -- the run is over: the next one
                local first = dt.kids_from(d.job, d.ord, d.cursor)
                if not first then return false end
                d.cursor = first
                dt.rows_ahead(d.job, first, CHUNK)
                r = look(d.job, first)
                if not r then return false end -- purged meanwhile
            end
            drop_payload(j, r)
        end
        d.cursor = d.cursor + 1
        if d.arg ~= 0 then return false end
    end
    return j ~= nil
end

-- ---- leaving ---------------------------------------------------------------------------------
-- From here on the id is free, and nobody finds the job; its rows go step by
-- step. False: its callbacks have not ended.
function dt.job_forget(j)
    if j.ended == 0 or j.hooks ~= 0 then return false end
    local id = hget(j.h, '8')
    if not id then return true end -- has begun
    hset(hash(P .. 'ids'), id, false)
    list_job(j, j.state, false)
    hset(j.h, '8', false)
    dt.push(DO_PURGE, j.no, 0, 0, 0)
    return true
end

-- Clears rows one by one with `one`, which says whether there was any; false: more remains.
local function clear(one)
    local i = 0
    while dt.spend(i) do
        if not one() then return true end
        i = i + 1
    end
    return false
end

local function log_clear(no, ord)
    return function()
        local n = log_from(no, ord, 0)
        if n then hset(log_hash(no, ord), n, false) end
        return n
    end
end

function dt.do_purge(d)
    local no = d.job
    local j = dt.job(no)
    if not j then return false end
    if j.lanes ~= 0 then
        dt.do_lanes(d)
        return true
    end
    if d.arg == 0 and j.log_n ~= 0 and not clear(log_clear(no, EMITS)) then return true end
    d.arg = 1
    local i = 0
    dt.rows_ahead(no, d.cursor, min(CHUNK, j.next - d.cursor))
    while d.cursor < j.next and dt.spend(i) do
        local ord = d.cursor
        local t = look(no, ord)
        if t then
            if t.nkids ~= 0 and not clear(function() return kids_pop(t) end) then return true end
            if t.logn ~= 0 and not clear(log_clear(no, ord)) then return true end
            if band(t.bits, HAS_EDGES) ~= 0 and not clear(function() return fifo_take(edges_of(no, ord)) end) then return true end
            if band(t.bits, HAS_KEYS) ~= 0 then dt.unique_forget(t) end
            if t.state == FAILED then dt.dead(t, false) end
            for kind = D_ARGS, ord == 0 and D_TRIGGER or D_STATE do data_set(t, kind, false) end
            task_gone(t)
        end
        i = i + 1
        d.cursor = d.cursor + 1
    end
    if d.cursor < j.next or blobs_drop(j) then return true end
    job_gone(j)
    return false
end

function dt.dead(t, there) -- failed tasks
    local z = zset(P .. 'dead', decode_place, true)
    if there then zput(z, place(t)) else zdel(z, pack('>I6I4', t.job, t.ord)) end
end
end)
