-- Which ready task comes next: lanes of a job's ready tasks, by stride
-- scheduling. See core/model/lanes.c.
room(function()
local function effect_type(type)
    if not fx.readied[type] then
        fx.readied[type] = 0
        insert(fx.types, type)
    end
end
dt.effect_type = effect_type

function dt.lane_add(t) -- it is ready
    if t.lost ~= 0 then
        zput(alone(t.type), place(t))
        if meta.drain_asked < now then meta.drain_asked = now end -- a worker is asked to run dry a second from now
        effect_type(t.type)
        fx.readied[t.type] = fx.readied[t.type] + 1
        return
    end
    dt.lane_run(t.j, t.ord, t.type, t.prio, band(t.bits, LASTLY) ~= 0)
end

-- Those that follow one another go into their lane together.
function dt.lane_run(j, ord, type, prio, back)
    local run, job = work.run, j.no
    if run.count ~= 0 and run.job == job and run.type == type and run.prio == prio and run.back == back
        and run.first + run.count == ord then
        run.count = run.count + 1
        return
    end
    if run.count ~= 0 then dt.lane_flush() end
    run.job, run.type, run.first, run.count, run.prio, run.back, run.j = job, type, ord, 1, prio, back, j
end

local function into_turnq(lane)
    zput(turnq(lane.type), {s = lane.vtime, a = lane.no, b = 0, m = pack('>I6BI6', lane.no, lane.prio, lane.job), no = lane.no,
        prio = lane.prio, job = lane.job})
end

-- What a task costs its lane: a step of priority is a factor of four.
local costs = {[0] = 4096, 1024, 256, 64, 16}

function dt.lane_flush()
    local run = work.run
    if run.count == 0 then return end
    local type, job, count, prio = run.type, run.job, run.count, run.prio + 2
    run.count = 0
    local lane = lane_at(type, job, prio)
    if not lane then
        local j = dt.job(job)
        lane = lane_new(j, type, prio, meta.next_lane)
        meta.next_lane = meta.next_lane + 1
        j.lanes = lane.code
    end
    if lane.head == lane.tail then
        local row = type_row(type)
        -- It pays for its first task as it enters.
        local enters = row and row.vmin + costs[prio] or 0
        if enters > lane.vtime then lane.vtime = enters end
        into_turnq(lane)
    end
    local ext = {first = run.first, count = count, job = job}
    if run.back then
        ext_put(lane, lane.tail, ext)
        lane.tail = lane.tail + 1
    else
        lane.head = lane.head - 1
        ext_put(lane, lane.head, ext)
    end
    effect_type(type)
    fx.readied[type] = fx.readied[type] + count
end

-- The front extent, to be changed and put back.
local function front_take(lane)
    if lane.head == lane.tail then return end
    local e = ext_get(lane, lane.head)
    if not e then raise(EINTERNAL, 'lane no %d lacks an extent', lane.no) end
    return e
end

local function front_put(lane, rest)
    if rest.count > 0 then
        ext_put(lane, lane.head, rest)
    else
        ext_put(lane, lane.head, false)
        lane.head = lane.head + 1
    end
end

-- Takes up to n extents out of the lane's front, handing each task to `fn`
-- (may be nil); true: more remain.
function dt.lane_drain(code, job, n, fn)
    local type = floor(code / 8)
    local lane = lane_at(type, job, code % 8)
    if not lane or lane.head == lane.tail then return false end
    while n > 0 do
        local ext = front_take(lane)
        if not ext then break end
        if fn then
            dt.rows_ahead(job, ext.first, min(n, ext.count))
            while n > 0 and ext.count > 0 do
                local t = task(job, ext.first)
                if t then fn(t) end
                n, ext.first, ext.count = n - 1, ext.first + 1, ext.count - 1
            end
        else
            ext.count = 0
            n = n - 1
        end
        front_put(lane, ext)
    end
    if lane.head ~= lane.tail then return true end
    zdel(turnq(type), pack('>I6BI6', lane.no, lane.prio, job))
    return false
end

-- ---- claiming ----------------------------------------------------------------------------
-- CLAIM: job, ord, token, row, id, args, deps' results, again, state, trigger.
local function fill(t, again)
    local j, ord, bits = t.j, t.ord, t.bits
    local id = hget(j.h, '8') or ''
    local c = {t.job, ord, t.token, row_bytes(t), id, data_of(j, ord, D_ARGS)}
    local state = band(bits, HAS_STATE) ~= 0 and data_raw(j, ord, D_STATE) or ''
    local trigger = ord == 0 and data_raw(j, 0, D_TRIGGER) or ''
    local deps = NONE
    if band(bits, HAS_DEPS) ~= 0 then
        deps = {}
        local s = data_raw(j, ord, D_DEPS) or ''
        for at = 1, #s, 4 do
            local of = unpack_s('<I4', s, at)
            local dep = look(t.job, of)
            insert(deps, dep and dt.mail_of(0, dep) or {})
        end
    end
    if again or state ~= '' or trigger ~= '' or deps ~= NONE then c[7], c[8], c[9], c[10] = deps, again, state, trigger end
    return c
end

-- Takes it, if it is to be had.
local function claim(u, w, job, ord)
    local plain = jobs[job] and dt.claim_plain(u, w, jobs[job], ord)
    if plain then
        u.nclaims = u.nclaims + 1
        u.claims[u.nclaims] = plain
        return true
    end
    local t = task(job, ord)
    if not t or t.state ~= READY then return false end
    if ending(t) or (t.begun == 0 and t.expires ~= 0 and t.expires <= now) then
        dt.push(DO_SETTLE, job, ord, 0, 0)
        return false
    end
    if t.j.paused ~= 0 then -- ahead of the pass
        move(t, BLOCKED)
        t.wait = PAUSE
        return false
    end
    move(t, RUNNING)
    local bits = t.bits
    if t.begun ~= 0 then
        t.bits = bits - band(bits, FIRST)
    else
        t.begun = now
        t.bits = bor(bits, FIRST)
        t.j.claimed = t.j.claimed + 1
        if t.expires ~= 0 then due_del(t.expires, t) end
    end
    t.owner, t.by, t.token, t.attempt = w.no, w.no, u.nonce, t.attempt + 1
    if t.seq ~= 0 then t.seq = 0 end
    if t.park_seq ~= 0 then t.park_seq = 0 end
    if bits >= HAS_KEYS then
        if band(bits, TELLS) ~= 0 then dt.told_clear(t) end
        if band(bits, HAS_KEYS) ~= 0 then
            dt.permits_claimed(t)
            dt.unique_free(t, true)
        end
    end
    held_add(w.no, t.token, job, ord)
    u.nclaims = u.nclaims + 1
    u.claims[u.nclaims] = fill(t, false)
    return true
end

-- Whether the turn takes tasks of that job.
local function asked(u, job) return u.only == 0 or u.only == job or dt.job(job).hook_of == u.only end

-- The first entry that the turn takes tasks of, and the one behind it.
local function pick(z, u)
    if u.only == 0 then
        local e = front(z)
        return e, e and second(z, e)
    end
    local all = each(z)
    for e in all do
        if asked(u, e.job) then return e, all() end
    end
end

local function claim_type(u, w, type, n)
    local q, stale, taken = turnq(type), 0, 0 -- extents are cleared of what is gone a little at a time
    while n > 0 and stale < CASCADE do
        local e, rival = pick(q, u)
        if not e then break end
        local prio, job = e.prio, e.job
        if jobs[job] == nil then job_load(job, true) end
        local lane, row = lane_at(type, job, prio), type_row(type)
        if not lane or not row then raise(EINTERNAL, 'type no %d has a turn without a lane', type) end
        if u.only == 0 and row.vmin < e.s then dt.type_mut(type).vmin = e.s end
        local most = rival and QUANTUM or CHUNK
        repeat
            local got = 0
            while got < most and n > 0 and stale < CASCADE do
                local ext = front_take(lane)
                if not ext then break end
                if ext.first + ext.count > 1 then dt.rows_ahead(job, ext.first, min(ext.count, n), D_ARGS) end
                while got < most and n > 0 and stale < CASCADE and ext.count > 0 do
                    if claim(u, w, job, ext.first) then got, n = got + 1, n - 1 else stale = stale + 1 end
                    ext.first, ext.count = ext.first + 1, ext.count - 1
                end
                front_put(lane, ext)
            end
            lane.vtime = lane.vtime + got * costs[prio]
            taken = taken + got
        until n == 0 or stale >= CASCADE or lane.head == lane.tail or (rival and lane.vtime > rival.s)
        zdel(q, e.m)
        if lane.head ~= lane.tail then into_turnq(lane) end
    end
    fx.taken[type] = (fx.taken[type] or 0) + taken
end

-- A task that has cost a worker runs alone. True: it was taken, or waits for
-- a worker that is empty.
local function claim_alone(u, w, type)
    local z = alone(type)
    for _ = 1, CASCADE do
        local e = pick(z, u)
        if not e then return false end
        if not u.empty then
            if meta.drain_asked + 1000000 <= now then
                meta.drain_asked = now
                u.drain = true
            end
            return false
        end
        zdel(z, e.m)
        if claim(u, w, e.job, e.ord) then return true end
    end
    return false
end

-- u: nonce, n, want (1 type, 2 n), empty, only; claims, drain go out.
function dt.claim_all(u, w)
    local nwant = #u.want
    if u.n == 0 or nwant == 0 then return end
    local total = 0
    for i = 1, nwant do total = total + min(u.want[i][2], u.n) end
    local cap = min(total, u.n)
    local nos, queues, alones = {}, {}, {}
    for i = 1, nwant do
        local no = u.want[i][1]
        nos[i], queues[i], alones[i] = no, P .. 'q:' .. no, P .. 'alone:' .. no
    end
    ahead(hash(P .. 'types'), nos)
    zsets_ahead(queues)
    zsets_ahead(alones)
    local lo, hi = unpack_s('<I4I4', u.nonce)
    local at = ((hi % nwant) * (4294967296 % nwant) + lo % nwant) % nwant
    for pass = 0, 1 do -- first those that must run alone
        for i = 0, nwant - 1 do
            if u.nclaims >= cap then break end
            local want = u.want[(at + i) % nwant + 1]
            local row, n = type_row(want[1]), min(want[2], cap - u.nclaims)
            if row and row.paused == 0 and n > 0 then
                if pass == 1 then claim_type(u, w, want[1], n)
                elseif claim_alone(u, w, want[1]) then return end
            end
        end
        if u.drain then return end
    end
end

-- The turn was resent: what its first copy claimed.
function dt.claim_again(u)
    for _, e in ipairs(held_all(u.worker, u.nonce)) do
        local r = look(e.job, e.ord)
        if r and r.token == u.nonce and r.state == RUNNING and r.seq == 0 then
            u.nclaims = u.nclaims + 1
            u.claims[u.nclaims] = fill(task(e.job, e.ord), true)
        end
    end
end
end)
