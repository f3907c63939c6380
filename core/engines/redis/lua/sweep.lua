-- sweep and era: what time brings. See core/model/sweep.c.
lazy(function()
local function due(t)
    if t.state >= CLOSING then return end
    if t.state == RUNNING and t.wait == 0 then
        if t.due ~= 0 and t.due <= now and ending(t) then dt.finish(t, CANCELLED, R_GRACE) end
    elseif t.state == RUNNING or t.state == PARKED then
        if band(t.wait, AWAITS) ~= 0 and holds(t) then dt.wake_up(t) end
    elseif t.state == SCHEDULED and t.due <= now then
        dt.admit(t)
    elseif t.begun == 0 and t.expires ~= 0 and t.expires <= now then
        dt.finish(t, SKIPPED, R_EXPIRED)
    end
end

-- Returns whether all that is due was taken, and when the next is.
local function sweep_due(budget, next)
    local z = due_rows()
    local e = front(z)
    while e do
        if e.s > now then return true, min(next, e.s) end
        work.steps = work.steps + 1
        if work.steps > budget then return false, next end
        zdel(z, e.m)
        local t = task(e.job, e.ord)
        if t then due(t) end
        e = front(z)
    end
    return true, next
end

local function worker_lapsed(no)
    local w = worker_at(no)
    if not w or w.dead ~= 0 then return end
    local last = max(w.expires, meta.resumed + w.lease_us)
    if last > now then lapse(last, LAPSE_WORKER, no) else dt.worker_end(w, true) end
end

local function worker_past(no)
    local w = worker_seen(no)
    if not w then return end
    if held_front(no) then return lapse(now + 60000000, LAPSE_GONE, no) end -- still being swept
    worker_gone(w)
end

local function unique_lapsed(key)
    local u = uniq_at(key)
    if not u or u.freed == 0 or u.lapse > now then return end
    uniq_put(key, false)
    local r = u.ord ~= 0 and look(u.job, u.ord)
    local p = r and look(u.job, r.parent)
    -- It pinned its task's payload.
    if p and p.state >= SUCCEEDED and p.j.keep ~= KEEP_ALL then dt.push(DO_DROP, u.job, r.parent, u.ord, 1) end
end

local function sweep_lapses(budget, next)
    local z = lapses()
    local e = front(z)
    while e do
        if e.s > now then return true, min(next, e.s) end
        work.steps = work.steps + 1
        if work.steps > budget then return false, next end
        zdel(z, e.m)
        local kind = e.kind
        local no = kind >= LAPSE_WORKER and #e.of == 6 and unpack_s('>I6', e.of)
        if kind == LAPSE_LIMIT then dt.limit_lapsed(e.of)
        elseif kind == LAPSE_UNIQUE then unique_lapsed(e.of)
        elseif kind == LAPSE_WORKER then worker_lapsed(no)
        elseif kind == LAPSE_GONE then worker_past(no)
        elseif kind == LAPSE_RETAIN then
            local j = dt.job(no)
            if j and not dt.job_forget(j) then lapse(now + 60000000, LAPSE_RETAIN, no) end -- its callbacks have not ended
        else
            raise(EVERSION, 'the shard has a lapse of kind %d, made by a newer release: upgrade', kind)
        end
        e = front(z)
    end
    return true, next
end

-- Those that a worker was executing as it died pay for it; the rest of what
-- it held does not.
local function dead(workers_dead, charge, charge_all)
    for _, no in ipairs(workers_dead) do
        local w = worker_at(no)
        if w and w.dead == 0 then
            for _, c in ipairs(charge_all and NONE or charge) do
                local t = task(c[1], c[2])
                if t and t.owner == no and t.state == RUNNING then dt.lose(t, true) end
            end
            dt.worker_end(w, charge_all or false)
        end
    end
end

-- A tick starts "type@time", unless the last one's job has not begun.
local function tick(no, at, next)
    local h, row, field = hash(P .. 'cron'), type_row(no), tostring(no)
    local s = hget(h, field)
    local had, job = 0, 0
    if s then had, job = mpu(s) end
    if not row or had ~= at then return end -- another worker was first
    hset(h, field, mp(next, job))
    local last = job ~= 0 and look(job, 0)
    if at == 0 or (last and last.begun == 0 and last.state < SUCCEEDED) then return end
    local begun = dt.tick_begin(row, at)
    if begun ~= 0 then hset(h, field, mp(next, begun)) end
end

local function sweep_ticks(ticks, next)
    for _, k in ipairs(ticks) do tick(k[1], k[2] or 0, k[3] or 0) end
    for _, s in pairs(hall(hash(P .. 'cron'))) do
        local at = s and mpu(s) or 0
        if at ~= 0 and at < next then next = at end
    end
    return next
end

-- 2 budget, 3 dead workers, 4 charge, 5 charge_all, 6 ticks; reply: next (0: none), steps.
function dt.op_sweep(s)
    local next, all, due_all = math.huge, nil, nil
    dead(s[3] or NONE, s[4] or NONE, s[5])
    -- What is due does not wait for a long todo, nor that for what is due.
    all, next = sweep_lapses(floor((s[2] or 0) / 4) + 1, next)
    due_all, next = sweep_due(floor((s[2] or 0) / 2) + 1, next)
    next = sweep_ticks(s[6] or NONE, next)
    dt.cascade(true)
    dt.make_room(CASCADE)
    local room = dt.leave()
    if room and next > now + ROOM_US then next = now + ROOM_US end
    if not all or not due_all or fx.todo then next = now end
    return {next == math.huge and 0 or next, work.steps}
end

-- Another store took over: all that was owned under the old one is void.
function dt.op_era(e)
    local run_id = sub(e[2] or '', 1, 64)
    local fresh = run_id ~= meta.run_id
    if fresh then
        meta.era = max(meta.era + 1, floor(now / 1000))
        meta.run_id = run_id
        for _, no in ipairs(serving(0)) do
            local w = worker_at(no)
            if w and w.dead == 0 then dt.worker_end(w, false) end
        end
    end
    return {meta.era, fresh}
end
end)
