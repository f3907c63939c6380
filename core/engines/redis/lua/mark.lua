-- mark: cancel, pause, resume, purge: a flag at once, and a pass over the
-- rows by steps. See core/model/mark.c.
lazy(function()
-- ---- the passes ----------------------------------------------------------------------------
function dt.do_cancel_job(d)
    local j, i = dt.job(d.job), 0
    if j then dt.rows_ahead(d.job, d.cursor, min(CHUNK, j.next - d.cursor)) end
    while j and d.cursor < j.next and dt.spend(i) do
        local t = task(d.job, d.cursor)
        if not t then return false end
        dt.cancel(t)
        i = i + 1
        d.cursor = d.cursor + 1
    end
    return j and d.cursor < j.next
end

-- The task after `at` in the walk below `top`; nil: the walk is over.
local function next_below(job, top, at)
    local kid = dt.kids_from(job, at, 0)
    if kid then return kid end
    while at ~= top do
        local r = look(job, at)
        if not r then return end
        local next = look(job, at + 1)
        if next and next.parent == r.parent then return at + 1 end
        kid = dt.kids_from(job, r.parent, at + 1)
        if kid then return kid end
        at = r.parent
        work.steps = work.steps + 1
    end
end

function dt.do_cancel(d)
    local i = 0
    while dt.spend(i) do
        i = i + 1
        local ord = next_below(d.job, d.ord, d.cursor)
        local t = ord and task(d.job, ord)
        if not t then return false end
        dt.cancel(t)
        d.cursor = ord
    end
    return true
end

local function pause_one(t)
    if t.state ~= READY then return end
    move(t, BLOCKED)
    t.wait = PAUSE
end

-- Empties the job's lanes, and its part of `alone`. `cursor` is the lane's
-- code; 0: the first. While the job is paused, none is added.
function dt.do_pause(d)
    local j, i = dt.job(d.job), 0
    if not j or j.paused == 0 then return false end
    if d.cursor == 0 then d.cursor = j.lanes end
    while d.cursor ~= 0 do
        if not dt.spend(i) or dt.lane_drain(d.cursor, d.job, CHUNK, pause_one) then return true end
        local type = floor(d.cursor / 8)
        local z, n = alone(type), 0
        for e in each(z) do
            if e.job == d.job then
                if n == CHUNK then return true end
                n = n + 1
                zdel(z, e.m)
                local t = task(d.job, e.ord)
                if t then pause_one(t) end
            end
        end
        local lane = lane_at(type, d.job, d.cursor % 8)
        d.cursor = lane and lane.next or 0
        i = i + 1
    end
    return false
end

function dt.do_resume(d)
    local j, i = dt.job(d.job), 0
    if j then dt.rows_ahead(d.job, d.cursor, min(CHUNK, j.next - d.cursor)) end
    while j and j.paused == 0 and d.cursor < j.next and dt.spend(i) do
        i = i + 1
        local r = look(d.job, d.cursor)
        d.cursor = d.cursor + 1
        if r and band(r.wait, PAUSE) ~= 0 then
            local t = task(d.job, d.cursor - 1)
            t.wait = t.wait - PAUSE
            if t.state == PARKED then dt.wake_up(t) else dt.admit(t) end
        end
    end
    return j and j.paused == 0 and d.cursor < j.next
end

-- ---- the operation ------------------------------------------------------------------------------
local function mark_type(verb, no)
    local row = dt.type_mut(no)
    if not row then return MARK_NONE end
    if verb ~= VERB_PAUSE and verb ~= VERB_RESUME then return MARKED end
    row.paused = verb == VERB_PAUSE and 1 or 0
    if row.paused == 0 then
        dt.effect_type(no)
        fx.readied[no] = fx.readied[no] + CASCADE
    end
    return MARKED
end

local function cancel_tree(job, ord)
    local t = task(job, ord)
    if not t or t.state >= SUCCEEDED then return end
    dt.cancel(t)
    if t.nkids ~= 0 then dt.push(DO_CANCEL, job, ord, ord, 0) end
end

local function cancel(j, kids, ord, ranges)
    if not kids and ord == 0 then
        dt.index_job(j, JOB_CANCELLING)
        dt.push(DO_CANCEL_JOB, j.no, 0, 0, 0)
        return MARKED
    end
    if not kids then
        local r = look(j.no, ord)
        if not r then return MARK_NONE end
        if r.state >= SUCCEEDED then return MARK_ENDED end
        cancel_tree(j.no, ord)
        return MARKED
    end
    for _, r in ipairs(ranges) do dt.push(DO_CANCEL_KIDS, j.no, ord, r[1], 0, nil, r[2]) end
    return MARKED
end

-- The children of one parent in a range: `cursor` is the first.
function dt.do_cancel_kids(d)
    local i = 0
    while d.count ~= 0 and dt.spend(i) do
        local r = look(d.job, d.cursor)
        if not r then return false end
        if r.parent == d.ord and d.cursor ~= 0 then cancel_tree(d.job, d.cursor) end
        i = i + 1
        d.cursor, d.count = d.cursor + 1, d.count - 1
    end
    return d.count ~= 0
end

-- 2 verb, 3 id, 4 type, 5 kids, 6 ord, 7 ranges; reply: status.
function dt.op_mark(m)
    local verb, id = m[2], m[3] or ''
    if id == '' then return {mark_type(verb, m[4] or 0)} end
    local no = dt.job_find(id)
    local j = no and dt.job(no)
    if not j then return {MARK_NONE} end
    local ended = j.state > JOB_CANCELLING
    if verb == VERB_PURGE then return {ended and dt.job_forget(j) and MARKED or MARK_BUSY} end
    if ended then return {MARK_ENDED} end
    if verb == VERB_CANCEL then
        return {j.state == JOB_RUNNING and cancel(j, m[5], m[6] or 0, m[7] or NONE) or MARKED}
    end
    local paused = verb == VERB_PAUSE and 1 or 0
    if j.paused ~= paused then
        j.paused = paused
        dt.push(paused == 1 and DO_PAUSE or DO_RESUME, no, 0, 0, 0)
    end
    return {MARKED}
end
end)
