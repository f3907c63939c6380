-- Tables that are walked in order, over Redis' sorted sets, lists and hashes,
-- with what this run adds and takes away.

local zset, zput, zdel, zsets_ahead, zbefore, front, second, each, zflush
room(function()
-- ---- sorted sets, walked in order -------------------------------------------------------
-- An entry: s its score, a, b its place among equals, m the member. `win` is
-- what was read, `add` what this run adds, both in order; `over` says of a
-- member what this run made of it: its entry, or false; `some` is shared by
-- sets of which so many are there that were not found yet.
function zset(key, decode, plain)
    local z = zsets[key]
    if not z then
        local some = absent[key]
        z = {key = key, decode = decode, plain = plain, win = {}, at = 1, whole = some == true,
            some = some ~= true and some, add = {}, first = 1, over = {}, dirty = false}
        zsets[key] = z
    end
    return z
end

local function before(x, y)
    if x.s ~= y.s then return x.s < y.s end
    if x.a ~= y.a then return x.a < y.a end
    return x.b < y.b
end

zbefore = before

local function zmark(z, m, e)
    if not z.dirty then
        z.dirty = true
        zdirty[#zdirty + 1] = z
    end
    z.over[m] = e
end

function zput(z, e)
    zmark(z, e.m, e)
    local add = z.add
    local lo, hi = z.first, #add + 1
    if hi > lo and not before(e, add[hi - 1]) then lo = hi end
    while lo < hi do
        local mid = floor((lo + hi) / 2)
        if before(e, add[mid]) then hi = mid else lo = mid + 1 end
    end
    insert(add, lo, e)
end

function zdel(z, m) zmark(z, m, false) end

-- Of sets that will be asked for: mostly none of them is there, or one.
function zsets_ahead(keys)
    local some = {left = call('EXISTS', unpack(keys))}
    for i = 1, #keys do
        local z = zsets[keys[i]]
        if not z then absent[keys[i]] = some.left == 0 or some
        elseif some.left == 0 then z.whole = true
        elseif not z.whole and #z.win == 0 then z.some = some end
    end
end

local function zload(z)
    local got, win = nil, z.win
    if z.plain then -- an unordered set
        got = call('SMEMBERS', z.key)
        for i = 1, #got do win[i] = z.decode(got[i], 0) end
        table.sort(win, before)
        z.whole = true
        return
    end
    local have, some = #win, z.some
    if some and have == 0 and some.left == 0 then -- all that are there were found
        z.whole = true
        return
    end
    got = call('ZRANGE', z.key, have, have + 127, 'WITHSCORES')
    for i = 1, #got, 2 do win[#win + 1] = z.decode(got[i], tonumber(got[i + 1])) end
    z.whole = #got < 256
    if some and have == 0 and #got > 0 then some.left = some.left - 1 end
end

-- The live entry of `win` from `at` on, and where.
local function stored_from(z, at)
    local win, over = z.win, z.over
    while true do
        local e = win[at]
        if not e then
            if z.whole then return nil, at end
            zload(z)
        elseif over[e.m] == nil then
            return e, at
        else
            at = at + 1
        end
    end
end

local function added_from(z, at)
    local add, over = z.add, z.over
    local e = add[at]
    while e and over[e.m] ~= e do
        at = at + 1
        e = add[at]
    end
    return e, at
end

-- The least; nil: it is empty.
function front(z)
    local x, y
    x, z.at = stored_from(z, z.at)
    y, z.first = added_from(z, z.first)
    if x and y then return before(x, y) and x or y end
    return x or y
end

-- Behind the front.
function second(z, e)
    local x, at = stored_from(z, z.at)
    if x == e then x = stored_from(z, at + 1) end
    local y, first = added_from(z, z.first)
    if y == e then y = added_from(z, first + 1) end
    if x and y then return before(x, y) and x or y end
    return x or y
end

-- All, in order; deletions on the way are seen.
function each(z)
    local at, first = z.at, z.first
    return function()
        local x, y
        x, at = stored_from(z, at)
        y, first = added_from(z, first)
        if x and (not y or before(x, y)) then
            at = at + 1
            return x
        end
        if y then first = first + 1 end
        return y
    end
end

function zflush(z)
    local add, rem, n, k = {}, {}, 0, 0
    if z.plain then
        for m, e in pairs(z.over) do
            if e then n = n + 1; add[n] = m else k = k + 1; rem[k] = m end
        end
        for i = 1, k, 4000 do call('SREM', z.key, unpack(rem, i, min(i + 3999, k))) end
        for i = 1, n, 4000 do call('SADD', z.key, unpack(add, i, min(i + 3999, n))) end
        return
    end
    for m, e in pairs(z.over) do
        if e then
            add[n + 1], add[n + 2] = e.s, m
            n = n + 2
        else
            k = k + 1
            rem[k] = m
        end
    end
    for i = 1, k, 4000 do call('ZREM', z.key, unpack(rem, i, min(i + 3999, k))) end
    for i = 1, n, 4000 do call('ZADD', z.key, unpack(add, i, min(i + 3999, n))) end
end
end)

local turnq, due_rows, due_put, due_del, lapses, lapse, decode_place, alone, held_add, held_drop, held_all, held_front, held_flush, place, wakes_of, wake_put
room(function()
-- Which they are. Members begin with their order, big-endian.
local function decode_turn(m, s)
    local no, prio, job = unpack_s('>I6BI6', m)
    return {s = s, a = no, b = 0, m = m, no = no, prio = prio, job = job}
end
function turnq(type)
    local z = turnqs[type]
    if not z then
        z = zset(P .. 'q:' .. type, decode_turn)
        turnqs[type] = z
    end
    return z
end

local function decode_due(m, s)
    local _, job, ord = unpack_s('>I7I6I4', m)
    return {s = s, a = job, b = ord, m = m, job = job, ord = ord}
end
function due_rows() return zset(P .. 'due', decode_due) end
function due_put(at, t)
    zput(due_rows(), {s = at, a = t.job, b = t.ord, m = pack('>I7I6I4', at, t.job, t.ord), job = t.job, ord = t.ord})
end
function due_del(at, t) zdel(due_rows(), pack('>I7I6I4', at, t.job, t.ord)) end

local function decode_lapse(m, s)
    local n, kind = unpack_s('>I6B', m)
    return {s = s, a = n, b = 0, m = m, kind = kind, of = sub(m, 8)}
end
function lapses() return zset(P .. 'lapse', decode_lapse) end
-- of: a key's bytes, or a number.
function lapse(at, kind, of)
    local n = meta.next_lapse
    meta.next_lapse = n + 1
    if type(of) == 'number' then of = pack('>I6', of) end
    zput(lapses(), {s = at, a = n, b = 0, m = pack('>I6B', n, kind) .. of, kind = kind, of = of})
end

function decode_place(m, s)
    local job, ord = unpack_s('>I6I4', m)
    return {s = s, a = job, b = ord, m = m, job = job, ord = ord}
end
function alone(type) return zset(P .. 'alone:' .. type, decode_place) end

-- What a worker holds: by token, the places of those that were claimed with
-- it and are still held. Most that were claimed together go together too, and
-- then their list goes by one command. In hand of a worker: `new` the places
-- of this run's claims (job and ord in turn) by token, `gone` how many left.
local function held(worker)
    local h = helds[worker]
    if not h then
        h = {key = P .. 'held:' .. worker, worker = worker, new = {}, gone = {}, win = nil, at = 1}
        helds[worker] = h
    end
    return h
end

function held_add(worker, token, job, ord)
    local h = held(worker)
    local l = h.new[token]
    if not l then
        l = {}
        h.new[token] = l
    end
    local n = #l
    l[n + 1], l[n + 2] = job, ord
    h.win = nil
end

function held_drop(worker, token)
    local gone = held(worker).gone
    gone[token] = (gone[token] or 0) + 1
end

-- Not if this run has seen it leave.
local function is_held(worker, token, job, ord)
    local j = jobs[job]
    if j == nil then return true end
    local r = j and j.rows[ord]
    if j and r == nil then
        local s
        if ord ~= 0 then s = row_bucket(j, ord).f[ROW[ord % 64]] end
        if s == nil then return true end
        r = look(job, ord)
    end
    return r and r.owner == worker and r.token == token
end

local function places_pack(l)
    local s = {}
    for i = 1, #l, 512 do
        local n = min(#l - i + 1, 512)
        s[#s + 1] = pack('>' .. string.rep('I6I4', n / 2), unpack(l, i, i + n - 1))
    end
    return concat(s)
end

local function places_unpack(l, s, worker, token)
    for at = 1, #s, 10 do
        local job, ord = unpack_s('>I6I4', s, at)
        if is_held(worker, token, job, ord) then l[#l + 1] = {s = 0, a = job, b = ord, job = job, ord = ord, token = token} end
    end
end

-- Those of one token, or all, in order.
function held_all(worker, token)
    local h, l = held(worker), {}
    if h.win and not token then return h.win end
    for of, places in pairs(h.new) do
        if not token or of == token then places_unpack(l, places_pack(places), worker, of) end
    end
    local stored = token and {token, call('HGET', h.key, token)} or call('HGETALL', h.key)
    for i = 1, #stored, 2 do
        if stored[i + 1] then places_unpack(l, stored[i + 1], worker, stored[i]) end
    end
    table.sort(l, zbefore)
    if not token then h.win, h.at = l, 1 end
    return l
end

-- Of a token's places those that are still held: false where none is.
local function held_rest(h, token, s)
    local gone = h.gone[token]
    if not gone then return s end
    if gone * 10 == #s then return false end
    local l = {}
    for at = 1, #s, 10 do
        local job, ord = unpack_s('>I6I4', s, at)
        if is_held(h.worker, token, job, ord) then l[#l + 1] = sub(s, at, at + 9) end
    end
    return #l > 0 and concat(l)
end

function held_flush()
    for _, h in pairs(helds) do
        local set, rem, ask = {}, {}, {}
        local function put(token, s)
            local rest = held_rest(h, token, s)
            if rest then
                set[#set + 1], set[#set + 2] = token, rest
            elseif not h.new[token] then
                rem[#rem + 1] = token
            end
        end
        for token, places in pairs(h.new) do put(token, places_pack(places)) end
        for token in pairs(h.gone) do
            if not h.new[token] then ask[#ask + 1] = token end
        end
        for i = 1, #ask, 1000 do
            local got = call('HMGET', h.key, unpack(ask, i, min(i + 999, #ask)))
            for k = 1, #got do put(ask[i + k - 1], got[k] or '') end
        end
        for i = 1, #rem, 4000 do call('HDEL', h.key, unpack(rem, i, min(i + 3999, #rem))) end
        for i = 1, #set, 4000 do call('HSET', h.key, unpack(set, i, min(i + 3999, #set))) end
    end
    helds = {}
end

function held_front(worker) -- the least; nil: none
    local win, h = held_all(worker), helds[worker]
    local e = win[h.at]
    while e and not is_held(worker, e.token, e.job, e.ord) do
        h.at = h.at + 1
        e = win[h.at]
    end
    return e
end
function place(t) return {s = 0, a = t.job, b = t.ord, m = pack('>I6I4', t.job, t.ord), job = t.job, ord = t.ord} end

local function decode_wake(m, s)
    local n, cancel, job, ord, token, seq = unpack_s('>I6BI6I4c8I4', m)
    return {s = s, a = 0, b = 0, m = m, n = n, cancel = cancel == 1, job = job, ord = ord, token = token, seq = seq}
end
function wakes_of(worker) return zset(P .. 'wakes:' .. worker, decode_wake) end
function wake_put(worker, n, cancel, t)
    local m = pack('>I6BI6I4c8I4', n, cancel and 1 or 0, t.job, t.ord, t.token, t.park_seq)
    zput(wakes_of(worker), decode_wake(m, n))
end
end)

-- Jobs by state: written here, read by redis.call after a flush.
local function list_job(j, state, there)
    local l = listed[state]
    if not l then
        l = {}
        listed[state] = l
    end
    l[j.h.name] = there
end

local fifo, fifo_take, fifo_put, fifo_flush
room(function()
-- ---- first in, first out: what is left to do -----------------------------------------------
function fifo(key)
    local l = lists[key]
    if not l then
        l = {key = key, win = {}, at = 1, whole = false, add = {}, first = 1, taken = 0}
        lists[key] = l
    end
    return l
end

local function fifo_front(l)
    if not l.win[l.at] and not l.whole then
        local have = #l.win
        local got = call('LRANGE', l.key, have, have + 63)
        for i = 1, #got do l.win[have + i] = got[i] end
        l.whole = #got < 64
    end
    return l.win[l.at] or l.add[l.first]
end

function fifo_take(l)
    local v = fifo_front(l)
    if l.win[l.at] then
        l.at = l.at + 1
        l.taken = l.taken + 1
    elseif v then
        l.first = l.first + 1
    end
    return v
end

function fifo_put(l, v) l.add[#l.add + 1] = v end

function fifo_flush(l)
    if l.taken > 0 then call('LTRIM', l.key, l.taken, -1) end
    local n = #l.add
    for i = l.first, n, 4000 do call('RPUSH', l.key, unpack(l.add, i, min(i + 3999, n))) end
end
end)

-- ---- extents by position: a hash each ------------------------------------------------------
local function ext_decode(s)
    local first, count, job = unpack_s('<I4I4I6', s)
    return {first = first, count = count, job = job}
end

-- d: what has head, tail, x (by position; false: gone), no and kind, which
-- name its hash. An extent with .d is to be written.
local function ext_key(d) return P .. d.kind .. d.no end

local function ext_get(d, pos)
    local e = d.x[pos]
    if e == nil then
        local ask = {}
        for p = pos, min(pos + 31, d.tail - 1) do
            if d.x[p] == nil then ask[#ask + 1] = p end
        end
        local got = call('HMGET', ext_key(d), unpack(ask))
        for i = 1, #ask do d.x[ask[i]] = got[i] and ext_decode(got[i]) or false end
        e = d.x[pos]
    end
    return e or nil
end

local function ext_put(d, pos, e)
    d.x[pos] = e
    if e then e.d = true end
end

local function ext_flush(d)
    local set, rem, key = {}, {}, ext_key(d)
    for pos, e in pairs(d.x) do
        if not e then
            rem[#rem + 1] = pos
        elseif e.d then
            e.d = nil
            set[#set + 1], set[#set + 2] = pos, pack('<I4I4I6', e.first, e.count, e.job)
        end
    end
    for i = 1, #rem do d.x[rem[i]] = nil end
    for i = 1, #rem, 4000 do call('HDEL', key, unpack(rem, i, min(i + 3999, #rem))) end
    for i = 1, #set, 4000 do call('HSET', key, unpack(set, i, min(i + 3999, #set))) end
end

-- ---- lanes: in the job's hash, the first of a job as `l`; its only extent lies with it --------
local function lane_touch(l)
    if not l.touched then
        l.touched = true
        lanes_touched[#lanes_touched + 1] = l
    end
    return l
end

local function lane_at(type, no, prio)
    local j = job_seen(no)
    if not j then return end
    local code = type * 8 + prio
    local l = j.lane_rows[code]
    if l == nil then
        local s = hget(j.h, 'l')
        if not s or s == '' or unpack_s('<I4', s, 2) ~= code then s = hget(j.h, 'l' .. code) end
        l = false
        if s and s ~= '' then
            local _, _, lane_no, vtime, head, tail, next, first, count = unpack_s('<BI4I6I7i5i5I4I4I4', s)
            l = {j = j, job = no, type = type, prio = prio, code = code, kind = 'x:', no = lane_no, vtime = vtime, head = head, tail = tail,
                next = next, stored = tail - head, raw = s, touched = false, gone = false,
                x = tail - head == 1 and {[head] = {first = first, count = count, job = no, d = false}} or {}}
        end
        j.lane_rows[code] = l
    end
    return l and lane_touch(l) or nil
end

local function lane_new(j, type, prio, lane_no)
    local code = type * 8 + prio
    local l = {j = j, job = j.no, type = type, prio = prio, code = code, kind = 'x:', no = lane_no, vtime = 0, head = 0, tail = 0,
        next = j.lanes, stored = 0, x = {}, touched = false, gone = false}
    j.lane_rows[code] = l
    return lane_touch(l)
end

local function lane_gone(l)
    l.j.lane_rows[l.code] = false
    l.gone = true
end

local function lane_flush(l)
    local n, first, count = l.tail - l.head, 0, 0
    if l.gone then n = 0 end
    if n == 1 then
        local e = ext_get(l, l.head)
        first, count = e.first, e.count
    elseif n > 1 then
        if l.stored == 1 then -- not in the hash yet
            for _, e in pairs(l.x) do
                if e then e.d = true end
            end
        end
        ext_flush(l)
    end
    if n < 2 and l.stored > 1 then call('DEL', ext_key(l)) end
    l.stored, l.touched = n, false
    if l.gone then
        if not l.j.gone_whole then hset(l.j.h, l.next == 0 and 'l' or 'l' .. l.code, '') end -- no second call for the job's hash
        return
    end
    local s = pack_lane(l, first, count)
    if s ~= l.raw then
        l.raw = s
        hset(l.j.h, l.next == 0 and 'l' or 'l' .. l.code, s)
    end
end
