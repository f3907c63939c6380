-- The records as they are stored, packed and unpacked: proto/redis.md tells
-- their layouts, packed.c reads them. A field of few records stands in a
-- group, which a bit of the mask says is there.

-- ---- tasks -----------------------------------------------------------------------
local zeros = {
    state = 0, verdict = 0, wait = 0, prio = 0, reason = 0, bits = 0, type = 0, parent = 0, depth = 0, open = 0, need = 0, bad = 0,
    blame = 0, attempt = 0, tries = 0, freed = 0, ptries = 0, lost = 0, retries = 0, crashes = 0, timeout_ms = 0, seq = 0, base = 0,
    nkids = 0, logn = 0, logr = 0, emits = 0, log_bytes = 0, park_seq = 0, lastkid = 0, notes = 0, at_limit = 0, owner = 0,
    token = ZERO8, by = 0, added = 0, begun = 0, ended = 0, expires = 0, due = 0,
}
-- What a row has beyond what its constructors name (task_new, unpack_task)
-- is unusual: it has `more`. Those name 16 fields, for a table of that size.
local task_row = {__index = zeros, __newindex = function(r, field, v)
    rawset(r, 'more', true)
    rawset(r, field, v)
end}
local formats = {} -- by mask

local function format_of(mask)
    local f = {'<BI2Bc33'}
    if mask % 2 >= 1 then insert(f, 'I4I4I4I4') end
    if mask % 4 >= 2 then insert(f, 'I2b') end
    if mask % 8 >= 4 then insert(f, 'BI3I7') end
    if mask % 16 >= 8 then insert(f, 'I4I6I7') end
    if mask % 32 >= 16 then insert(f, 'c8') end
    if mask % 64 >= 32 then insert(f, 'I7BB') end
    if mask % 128 >= 64 then insert(f, 'I4I4') end
    if mask % 256 >= 128 then insert(f, 'I4I4I4I4I4I4') end
    if mask % 512 >= 256 then insert(f, 'I4') end
    if mask % 1024 >= 512 then insert(f, 'I4I4I4I4') end
    if mask % 2048 >= 1024 then insert(f, 'Bi8i8I4') end
    if mask >= 2048 then insert(f, 'I4I4I4I4I4') end
    f = concat(f)
    formats[mask] = f
    return f
end

local a = {} -- the values of the row being packed

local function pack_whole(r)
    local mask, n, fix = 0, 4, r.fix
    a[1], a[3] = 1, r.state
    if not fix then
        local retries, crashes, depth = r.retries, r.crashes, r.depth
        if retries > 255 or crashes > 255 or depth > 255 or r.timeout_ms ~= 0 then
            mask, n = 1, 8
            a[5], a[6], a[7], a[8] = retries, crashes, depth, r.timeout_ms
            retries, crashes, depth = 0, 0, 0
        end
        fix = pack('<I3I4I7c16BBB', r.type, r.parent, r.added, r.call, retries, crashes, depth)
        if mask == 0 then r.fix = fix end
    end
    a[4] = fix
    local bits, prio = r.bits, r.prio
    if bits ~= 0 or prio ~= 0 then
        mask = mask + 2
        a[n + 1], a[n + 2] = bits, prio
        n = n + 2
    end
    local attempt = r.attempt
    if attempt ~= 0 then
        mask = mask + ((attempt < 256 and r.by < 16777216) and 4 or 8)
        a[n + 1], a[n + 2], a[n + 3] = attempt, r.by, r.begun
        n = n + 3
        if r.owner ~= 0 then
            mask = mask + 16
            n = n + 1
            a[n] = r.token
        end
    end
    if r.ended ~= 0 or r.reason ~= 0 or r.verdict ~= 0 then
        mask = mask + 32
        a[n + 1], a[n + 2], a[n + 3] = r.ended, r.reason, r.verdict
        n = n + 3
    end
    if r.seq ~= 0 or r.park_seq ~= 0 then
        mask = mask + 64
        a[n + 1], a[n + 2] = r.seq, r.park_seq
        n = n + 2
    end
    if r.nkids ~= 0 or r.base ~= 0 then
        mask = mask + 128
        a[n + 1], a[n + 2], a[n + 3], a[n + 4], a[n + 5], a[n + 6] = r.open, r.bad, r.blame, r.nkids, r.lastkid, r.base
        n = n + 6
    end
    if r.need ~= 0 then
        mask = mask + 256
        n = n + 1
        a[n] = r.need
    end
    if r.tries ~= 0 or r.ptries ~= 0 or r.lost ~= 0 or r.freed ~= 0 then
        mask = mask + 512
        a[n + 1], a[n + 2], a[n + 3], a[n + 4] = r.tries, r.freed, r.ptries, r.lost
        n = n + 4
    end
    if r.wait ~= 0 or r.due ~= 0 or r.expires ~= 0 or r.at_limit ~= 0 then
        mask = mask + 1024
        a[n + 1], a[n + 2], a[n + 3], a[n + 4] = r.wait, r.due, r.expires, r.at_limit
        n = n + 4
    end
    if r.logn ~= 0 or r.emits ~= 0 then
        mask = mask + 2048
        a[n + 1], a[n + 2], a[n + 3], a[n + 4], a[n + 5] = r.logn, r.logr, r.emits, r.log_bytes, r.notes
        n = n + 5
    end
    a[2] = mask
    return pack(formats[mask] or format_of(mask), unpack(a, 1, n))
end

-- Rows that go the same way together differ in `fix` alone: of the last one
-- what lies ahead of it and behind it is kept.
local like, head, tail = {}, '', ''

local function pack_task(r)
    local fix = r.fix
    if not fix or r.more then return pack_whole(r) end
    if r.state == like.state and r.bits == like.bits and r.ended == like.ended and r.owner == like.owner and r.token == like.token
        and r.begun == like.begun and r.attempt == like.attempt and r.by == like.by then
        return head .. fix .. tail
    end
    local s = pack_whole(r)
    like = {state = r.state, bits = r.bits, ended = r.ended, owner = r.owner, token = r.token, begun = r.begun, attempt = r.attempt, by = r.by}
    head, tail = sub(s, 1, 4), sub(s, 38)
    return s
end

-- What hardly changes after the task was made and few ask for (when it was
-- added, its call, retries, crashes, depth) stays packed in `fix` until then.
-- Who changes one of them lets `fix` go.
local function fixed(r)
    local fix = r.fix
    if fix and not r.call then
        local _
        _, _, r.added, r.call, r.retries, r.crashes, r.depth = unpack_s('<I3I4I7c16BBB', fix)
    end
    return r
end

-- The row of task `ord` of job j.
local function unpack_task(s, j, ord)
    local version, mask, state, kind, parent = unpack_s('<BI2BI3I4', s)
    local at = 38
    if version ~= 1 then raise(EVERSION, 'the shard has a task of version %d, made by a newer release: upgrade', version) end
    local r = setmetatable({raw = s, job = j.no, ord = ord, j = j, state = state, type = kind, parent = parent, fix = sub(s, 5, 37), bits = 0,
        attempt = 0, by = 0, begun = 0, owner = 0, token = ZERO8, ended = 0, hand = false}, task_row)
    if mask == 0 then return r end
    if mask == 22 then -- claimed, as most
        local prio
        r.bits, prio, r.attempt, r.by, r.begun, r.token = unpack_s('<I2bBI3I7c8', s, at)
        r.owner = r.by
        if prio ~= 0 then r.prio = prio end
        return r
    end
    if mask % 2 >= 1 then
        fixed(r)
        r.retries, r.crashes, r.depth, r.timeout_ms, at = unpack_s('<I4I4I4I4', s, at)
        r.fix = nil
    end
    local x, y
    if mask % 4 >= 2 then
        r.bits, x, at = unpack_s('<I2b', s, at)
        if x ~= 0 then r.prio = x end
    end
    if mask % 8 >= 4 then r.attempt, r.by, r.begun, at = unpack_s('<BI3I7', s, at) end
    if mask % 16 >= 8 then r.attempt, r.by, r.begun, at = unpack_s('<I4I6I7', s, at) end
    if mask % 32 >= 16 then
        r.token, at = unpack_s('c8', s, at)
        r.owner = r.by
    end
    if mask % 64 >= 32 then
        r.ended, x, y, at = unpack_s('<I7BB', s, at)
        if x ~= 0 then r.reason = x end
        if y ~= 0 then r.verdict = y end
    end
    if mask % 128 >= 64 then r.seq, r.park_seq, at = unpack_s('<I4I4', s, at) end
    if mask % 256 >= 128 then r.open, r.bad, r.blame, r.nkids, r.lastkid, r.base, at = unpack_s('<I4I4I4I4I4I4', s, at) end
    if mask % 512 >= 256 then r.need, at = unpack_s('<I4', s, at) end
    if mask % 1024 >= 512 then r.tries, r.freed, r.ptries, r.lost, at = unpack_s('<I4I4I4I4', s, at) end
    if mask % 2048 >= 1024 then r.wait, r.due, r.expires, r.at_limit, at = unpack_s('<Bi8i8I4', s, at) end
    if mask >= 2048 then r.logn, r.logr, r.emits, r.log_bytes, r.notes, at = unpack_s('<I4I4I4I4I4', s, at) end
    return r
end

-- ---- jobs ------------------------------------------------------------------------
local job_zeros = {
    state = 0, paused = 0, keep = 0, type = 0, next = 0, gone = 0, claimed = 0, max_tasks = U32, max_depth = U32, hooks = 0, log_n = 0,
    log_bytes = 0, of = 0, hook_of = 0, lanes = 0, created = 0, ended = 0, retain_us = 0, grace_us = 0,
    blob_min = 65536, blob = '',
    [0] = 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
}
local job_row = {__index = job_zeros}

-- A job of one task has it in one state; else the counts by state follow,
-- those that are not 0 by a mask.
local ALL = 255
local function pack_job(j)
    local mask, f, n = 0, '', 14
    a[1], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11], a[12], a[14] = 1, j.state, j.keep, j.type, j.next, j.claimed, j.created, j.ended,
        j.retain_us, j.grace_us, j.lanes, j.paused
    if j.next == 1 then
        a[13] = j.last
    else
        local counts = 0
        n = 15
        for i = 0, 9 do
            local c = j[i]
            if c ~= 0 then
                counts = counts + 2 ^ i
                n = n + 1
                a[n] = c
                f = f .. 'I4'
            end
        end
        a[13], a[15] = ALL, counts
        f = 'I2' .. f
    end
    if j.max_tasks ~= U32 or j.max_depth ~= U32 then
        mask = mask + 1
        f = f .. 'I4I4'
        a[n + 1], a[n + 2] = j.max_tasks, j.max_depth
        n = n + 2
    end
    if j.hooks ~= 0 or j.of ~= 0 or j.hook_of ~= 0 then
        mask = mask + 2
        f = f .. 'I4I6I6'
        a[n + 1], a[n + 2], a[n + 3] = j.hooks, j.of, j.hook_of
        n = n + 3
    end
    if j.log_n ~= 0 then
        mask = mask + 4
        f = f .. 'I4I6'
        a[n + 1], a[n + 2] = j.log_n, j.log_bytes
        n = n + 2
    end
    if j.blob_min ~= 65536 or j.blob ~= '' then
        mask = mask + 8
        f = f .. 'I4Bc0'
        a[n + 1], a[n + 2], a[n + 3] = j.blob_min, #j.blob, j.blob
        n = n + 3
    end
    a[2] = mask
    return pack(f == '' and '<BBBBI3I4I4I7I7I7I7I4BB' or '<BBBBI3I4I4I7I7I7I7I4BB' .. f, unpack(a, 1, n))
end

local function unpack_job(s, no, h)
    local version, mask, state, keep, kind, next, claimed, created, ended, retain_us, grace_us, lanes, last, paused, at =
        unpack_s('<BBBBI3I4I4I7I7I7I7I4BB', s)
    if version ~= 1 then raise(EVERSION, 'the shard has a job of version %d, made by a newer release: upgrade', version) end
    local j = setmetatable({no = no, h = h, raw = s, rows = {}, row_buckets = {}, data_buckets = {}, lane_rows = {}, kid_lists = false, state = state, keep = keep, type = kind,
        next = next, claimed = claimed, created = created, ended = ended, retain_us = retain_us, grace_us = grace_us, lanes = lanes, last = last,
        paused = paused, touched = false}, job_row)
    if last ~= ALL then
        j[last] = 1
    else
        local counts
        counts, at = unpack_s('<I2', s, at)
        for i = 0, 9 do
            if counts % 2 == 1 then j[i], at = unpack_s('<I4', s, at) end
            counts = floor(counts / 2)
        end
    end
    if mask == 0 then return j end
    if mask % 2 >= 1 then j.max_tasks, j.max_depth, at = unpack_s('<I4I4', s, at) end
    if mask % 4 >= 2 then j.hooks, j.of, j.hook_of, at = unpack_s('<I4I6I6', s, at) end
    if mask % 8 >= 4 then j.log_n, j.log_bytes, at = unpack_s('<I4I6', s, at) end
    if mask >= 8 then j.blob_min, j.blob, at = unpack_s('<I4Bc0', s, at) end
    return j
end

-- ---- the others: few, or seldom touched ---------------------------------------------
local function pack_type(r)
    return mp(1, r.paused, r.served, r.system, r.no, r.type_version, r.crashes, r.vmin, r.workers, r.listeners, r.name)
end

local function unpack_type(s)
    local version, paused, served, system, no, type_version, crashes, vmin, workers_n, listeners, name = mpu(s)
    if version ~= 1 then raise(EVERSION, 'the shard has a type of version %d, made by a newer release: upgrade', version) end
    return {raw = s, paused = paused, served = served, system = system, no = no, type_version = type_version, crashes = crashes, vmin = vmin,
        workers = workers_n, listeners = listeners, name = name, touched = false}
end

local function pack_worker(w)
    return mp(1, w.dead, w.no, w.nonce, w.next_wake, w.lease_us, w.expires, w.since, w.name)
end

local function unpack_worker(s)
    local version, dead, no, nonce, next_wake, lease_us, expires, since, name = mpu(s)
    if version ~= 1 then raise(EVERSION, 'the shard has a worker of version %d, made by a newer release: upgrade', version) end
    return {raw = s, dead = dead, no = no, nonce = nonce, next_wake = next_wake, lease_us = lease_us, expires = expires, since = since, name = name,
        touched = false}
end

local function pack_lane(l, first, count)
    return pack('<BI4I6I7i5i5I4I4I4', 1, l.code, l.no, l.vtime, l.head, l.tail, l.next, first, count)
end

local function pack_uniq(u)
    return pack('<BBBBI4I6c16i8i8', 1, u['until'], u.scope, u.freed, u.ord, u.job, u.call, u.keep_us, u.lapse)
end

local function unpack_uniq(s)
    local u, _ = {}
    _, u['until'], u.scope, u.freed, u.ord, u.job, u.call, u.keep_us, u.lapse = unpack_s('<BBBBI4I6c16i8i8', s)
    return u
end
