-- What is known of the shard in this run, and what is to be written. A row
-- is read and unpacked at its first touch and written once, by dt.flush, if
-- its bytes have changed: nothing is written before all has been decided, so
-- a run that is thrown away leaves no trace.

local hashes, dirty      -- Redis hashes by key; those with something to write
local jobs, tasks        -- jobs by no; tasks that are in hand to be changed
local touched_jobs
local zsets, zdirty, absent -- absent: sets by key of which nothing is stored (true), or maybe nothing
local types, type_touched, workers, worker_touched, limits, limit_touched
local lanes_touched, kids_touched
local dels               -- whole keys that go
local lists
local turnqs, helds      -- by type, by worker
local listed             -- jobs by state: state -> no -> there or not

function dt.fresh()
    hashes, dirty, jobs, tasks, touched_jobs, zsets, zdirty, absent = {}, {}, {}, {}, {}, {}, {}, {}
    types, type_touched, workers, worker_touched, limits, limit_touched = {}, {}, {}, {}, {}, {}
    lanes_touched, kids_touched, dels, lists, listed, turnqs, helds = {}, {}, {}, {}, {}, {}, {}
    meta = nil
end

-- ---- hashes: f what is known (false: not there), w what is to be written ---------------
local function hash(key) -- one of those that are known by name
    local h = hashes[key]
    if not h then
        h = {key = key, f = {}, w = nil, whole = false}
        hashes[key] = h
    end
    return h
end

local function hget(h, field)
    local v = h.f[field]
    if v == nil then
        v = not h.whole and call('HGET', h.key, field)
        h.f[field] = v
    end
    return v
end

-- w: fields and values in turn, the last of a field counts; d: fields to be deleted after that.
local function hset(h, field, v) -- false: deletes
    h.f[field] = v
    local w = h.w
    if not w then
        if v then w = {field, v} else w = {} end
        h.w, h.d = w, not v and {[field] = true} or nil
        dirty[#dirty + 1] = h
        return
    end
    local d = h.d
    if v then
        local n = #w
        w[n + 1], w[n + 2] = field, v
        if d and d[field] then d[field] = nil end
    else
        if not d then
            d = {}
            h.d = d
        end
        d[field] = true
    end
end

-- Asks for those of a list of fields that are not known yet.
local function ahead(h, fields)
    if h.whole then return end
    local ask, n, f = {}, 0, h.f
    for i = 1, #fields do
        local field = fields[i]
        if f[field] == nil then
            n = n + 1
            ask[n] = field
        end
    end
    for from = 1, n, 1000 do
        local got = call('HMGET', h.key, unpack(ask, from, min(from + 999, n)))
        for i = 1, #got do f[ask[from + i - 1]] = got[i] end
    end
end

local function hall(h) -- all of it, field by field
    if not h.whole then
        local got, f = call('HGETALL', h.key), h.f
        for i = 1, #got, 2 do
            if f[got[i]] == nil then f[got[i]] = got[i + 1] end
        end
        h.whole = true
    end
    return h.f
end

-- ---- jobs and tasks -----------------------------------------------------------------
-- A job's hash holds its row `j`, its root's row `r`, its root's data by
-- kind, its lanes. Other tasks lie in buckets of 64: t the rows, d the data.
local KIND = {[0] = '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', '10', '11'} -- of the root's data

local function job_new(no, keep, type, retain_us, grace_us)
    local name = tostring(no)
    local h = {key = P .. 'j:' .. name, name = name, f = {}, w = nil, d = nil, whole = true}
    local j = setmetatable({no = no, h = h, rows = {}, row_buckets = {}, data_buckets = {}, lane_rows = {}, kid_lists = false, touched = true, state = JOB_RUNNING, keep = keep,
        type = type, next = 0, created = now, retain_us = retain_us, grace_us = grace_us, lanes = 0, last = STATES, paused = 0, claimed = 0}, job_row)
    jobs[no] = j
    touched_jobs[#touched_jobs + 1] = j
    return j
end

-- claim: with what a claim of the root asks for.
local function job_load(no, claim)
    local name, got = tostring(no)
    local key = P .. 'j:' .. name
    local h = {key = key, name = name, f = nil, w = nil, d = nil, whole = false}
    if claim then
        got = call('HMGET', key, 'j', 'r', '8', 'l', '0', '10')
        h.f = {j = got[1], r = got[2], ['8'] = got[3], l = got[4], ['0'] = got[5], ['10'] = got[6]}
    else
        got = call('HMGET', key, 'j', 'r', '8', 'l')
        h.f = {j = got[1], r = got[2], ['8'] = got[3], l = got[4]}
    end
    local j = got[1] and unpack_job(got[1], no, h) or false
    jobs[no] = j
    return j
end

local function job_seen(no) -- only to read; nil: gone
    local j = jobs[no]
    if j == nil then j = job_load(no) end
    return j or nil
end

function dt.job(no)
    local j = job_seen(no)
    if j and not j.touched then
        j.touched = true
        touched_jobs[#touched_jobs + 1] = j
    end
    return j
end

local function job_gone(j)
    j.gone_whole = true
    jobs[j.no] = false
    dels[#dels + 1] = j.h
end

local function bucket_new(j, of, kind, first)
    local h = {key = P .. kind .. ':' .. j.h.name .. ':' .. first / 64, f = {}, w = nil, d = nil, whole = false}
    of[first] = h
    return h
end

local function row_bucket(j, ord)
    local first = ord - ord % 64
    return j.row_buckets[first] or bucket_new(j, j.row_buckets, 't', first)
end

local function data_bucket(j, ord)
    local first = ord - ord % 64
    return j.data_buckets[first] or bucket_new(j, j.data_buckets, 'd', first)
end

-- Their fields.
local ROW, DATA = {}, {}
for i = 0, 63 do ROW[i] = char(i) end
for kind = D_ARGS, D_KIDS do
    DATA[kind] = {}
    for i = 0, 63 do DATA[kind][i] = char(i, kind) end
end

local function task_new(j, ord, kind, call_hash, retries, crashes, timeout_ms, parent, depth)
    local r = setmetatable({job = j.no, ord = ord, j = j, hand = true, state = STATES, type = kind, parent = parent, fix = false, bits = 0, attempt = 0,
        by = 0, begun = 0, owner = 0, token = ZERO8, ended = 0, raw = false}, task_row)
    if retries > 255 or crashes > 255 or depth > 255 or timeout_ms ~= 0 then
        r.added, r.call, r.retries, r.crashes, r.depth, r.timeout_ms = now, call_hash, retries, crashes, depth, timeout_ms
    else
        r.fix = pack('<I3I4I7c16BBB', kind, parent, now, call_hash, retries, crashes, depth)
    end
    j.rows[ord] = r
    tasks[#tasks + 1] = r
    return r
end

function dt.look(no, ord) -- only to read; nil: gone
    local j = job_seen(no)
    if not j then return end
    local r = j.rows[ord]
    if r == nil then
        local s
        if ord == 0 then s = hget(j.h, 'r') else s = hget(row_bucket(j, ord), ROW[ord % 64]) end
        r = s and unpack_task(s, j, ord) or false
        j.rows[ord] = r
    end
    return r or nil
end
local look = dt.look

function dt.task(no, ord) -- to be changed in place
    local t = look(no, ord)
    if t then
        if not t.hand then
            tasks[#tasks + 1] = t
            dt.job(no)
        end
        t.hand = true
    end
    return t
end
local task = dt.task

-- What the row is when it is packed now; it stays so until it is in hand again.
local function row_bytes(t)
    local s = t.hand -- false, or it is in hand: true, or what it was packed as since
    if not s then return t.raw end
    if s == true then
        s = pack_task(t)
        t.hand = s
    end
    return s
end

local function task_gone(t)
    if t.ord == 0 then hset(t.j.h, 'r', false) else hset(row_bucket(t.j, t.ord), ROW[t.ord % 64], false) end
    t.gone = true
    t.j.rows[t.ord] = false
end

-- Rows that will be looked at soon: tasks of one job from `first` on.
function dt.rows_ahead(no, first, count, data)
    local j = job_seen(no)
    if not j then return end
    local last = first + count - 1
    while first <= last do
        local edge = min(last, first - first % 64 + 63)
        if first == 0 then
            first = 1
        else
            local fields, n, rows = {}, 0, j.rows
            for ord = first, edge do
                if rows[ord] == nil then
                    n = n + 1
                    fields[n] = ROW[ord % 64]
                end
            end
            if n > 0 then ahead(row_bucket(j, first), fields) end
            if data then
                fields, n = {}, 0
                for i = first % 64, edge % 64 do
                    n = n + 1
                    fields[n] = DATA[data][i]
                end
                ahead(data_bucket(j, first), fields)
            end
            first = edge + 1
        end
    end
end

-- ---- data ---------------------------------------------------------------------------
local function data_raw(j, ord, kind)
    if ord == 0 then return hget(j.h, KIND[kind]) end
    return hget(data_bucket(j, ord), DATA[kind][ord % 64])
end

-- What calls carry (arguments, result, error) and is longer than the job's
-- blob_min lies once in its job, by content: b, with the digest of the one
-- made before it ahead of the bytes. See core/model/data.c.
local REFERENCE = '\193' -- and the digest; a value that begins so is made a blob whatever its length
local function carried(kind) return kind == D_ARGS or kind == D_RESULT or kind == D_ERROR end

local function blob_hash(j) return hash(P .. 'b:' .. j.no) end
local function blob_of(j, v)
    local digest, h = redis.sha1hex(meta.salt .. v), blob_hash(j)
    if not hget(h, digest) then
        hset(h, digest, char(#j.blob) .. j.blob .. v)
        j.blob = digest
    end
    return digest
end

local function blob_split(s)
    local n = byte(s)
    return sub(s, 2, 1 + n), sub(s, 2 + n)
end

-- The job's blobs, newest first. True: more remain.
local function blobs_drop(j)
    local i = 0
    while j.blob ~= '' do
        if not dt.spend(i) then return true end
        i = i + 1
        local digest, h = j.blob, blob_hash(j)
        j.blob = blob_split(hget(h, digest))
        hset(h, digest, false)
    end
    return false
end

local function data_of(j, ord, kind) -- '': none
    local s = data_raw(j, ord, kind)
    if not s then return '' end
    if byte(s) == 193 and carried(kind) then
        local blob = hget(blob_hash(j), sub(s, 2))
        if not blob then raise(EINTERNAL, 'task %d of job no %d refers to a value that is gone', ord, j.no) end
        local _, v = blob_split(blob)
        return v
    end
    return s
end

function dt.data_get(no, ord, kind)
    local j = job_seen(no)
    return j and data_of(j, ord, kind) or ''
end
local data_get = dt.data_get

local function data_put(j, ord, kind, v, plain) -- v false: deletes; plain: no blob
    if v and not plain and carried(kind) and (#v > j.blob_min or byte(v) == 193) then v = REFERENCE .. blob_of(j, v) end
    if ord == 0 then hset(j.h, KIND[kind], v) else hset(data_bucket(j, ord), DATA[kind][ord % 64], v) end
end
local function data_set(t, kind, v, plain) data_put(t.j, t.ord, kind, v, plain) end

-- What changes as its task goes makes no blob, for that would stay.
local function data_change(t, kind, v)
    local new = #v > t.j.blob_min and byte(v) ~= 193 and not hget(blob_hash(t.j), redis.sha1hex(meta.salt .. v))
    data_set(t, kind, v, new)
end
