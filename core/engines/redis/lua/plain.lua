-- Tasks that go the way of most: no root, ready as they were made, claimed
-- once, ended well. Their rows go from state to state as bytes, and no table
-- is made of one, which is most of what a child costs.
--
-- What happens is what life.lua, lanes.lua, turn.lua and jobs.lua do to a row
-- in hand. A row that is in hand, or has anything that these do not name, is
-- not touched here: the answer is nil or false, and the caller goes their way.
--
-- A row's bytes: version, mask, state; `fix`, from 5 to 37; the groups of the
-- mask, which are the same of all that were made, claimed or ended together.
room(function()
local FRESH, FRESH_BITS = pack('<BI2B', 1, 0, READY), pack('<BI2B', 1, 2, READY)
local CLAIMED, DONE = pack('<BI2B', 1, 22, RUNNING), pack('<BI2B', 1, 38, SUCCEEDED)
local WELL = {OK, 0, 0, false, false, SUCCEEDED, 0} -- the answer to a message
local PLAIN = SEEN + REPLACED + FIRST + JOURNAL + LASTLY

local function plain(bits) return band(bits, PLAIN) == bits end

-- What is stored of a task, or to be stored, if it is not in hand and was read; and its bucket.
local function bytes_of(j, ord)
    if ord == 0 or j.rows[ord] ~= nil then return end
    local h = j.row_buckets[ord - ord % 64]
    return h and h.f[ROW[ord % 64]], h
end

local function moved(j, from, to)
    if not j.touched then dt.job(j.no) end
    if from < STATES then j[from] = j[from] - 1 end
    j[to] = j[to] + 1
    j.last = to
end

-- Child `ord` of the task that g.t is, from NEW: what task_make and admit do. True: it is made.
function dt.make_plain(g, ord, c, lastly)
    local p = g.t
    local j = p.j
    if c[12] or c[8] ~= 0 or c[10] ~= 0 or c[11] ~= 0 or c[6] > 255 or c[7] > 255 or j.paused ~= 0 or j.state == JOB_CANCELLING or p.tries ~= 0 then
        return false
    end
    local like = g.like
    if not like or like[1] ~= c[1] or like[2] ~= c[2] or like[3] ~= c[3] or like[6] ~= c[6] or like[7] ~= c[7] then
        local depth = fixed(p).depth + 1
        if depth > 255 then return false end
        local bits = c[3] % 2 * SEEN + floor(c[3] / 2) % 2 * JOURNAL + (lastly and LASTLY or 0)
        local few = bits == 0 and c[2] == 0
        g.like = c
        g.head = (few and FRESH or FRESH_BITS) .. pack('<I3I4I7', c[1], p.ord, now)
        g.tail = pack('BBB', c[6], c[7], depth) .. (few and '' or pack('<I2b', bits, c[2]))
    end
    hset(row_bucket(j, ord), ROW[ord % 64], g.head .. c[4] .. g.tail)
    if c[5] ~= '' then data_put(j, ord, D_ARGS, c[5]) end
    j.next = ord + 1
    moved(j, STATES, READY)
    dt.lane_run(j, ord, c[1], c[2], lastly)
    return true
end

-- What lanes.lua's claim does, with the row's bytes. nil: it is not plain.
function dt.claim_plain(u, w, j, ord)
    local s, h = bytes_of(j, ord)
    if not s or j.paused ~= 0 or j.state == JOB_CANCELLING then return end
    local head, was = sub(s, 1, 4), sub(s, 38)
    if head ~= FRESH and head ~= FRESH_BITS then return end
    local tails = u.tails
    if not tails then
        tails = {}
        u.tails = tails
    end
    local tail = tails[was]
    if tail == nil then
        local bits, prio = 0, 0
        if was ~= '' then bits, prio = unpack_s('<I2b', was) end
        tail = plain(bits) and w.no < 16777216 and pack('<I2bBI3I7c8', bor(bits, FIRST), prio, 1, w.no, now, u.nonce)
        tails[was] = tail
    end
    if not tail then return end
    s = CLAIMED .. sub(s, 5, 37) .. tail
    hset(h, ROW[ord % 64], s)
    moved(j, READY, RUNNING)
    j.claimed = j.claimed + 1
    held_add(w.no, u.nonce, j.no, ord)
    return {j.no, ord, u.nonce, s, hget(j.h, '8') or '', data_of(j, ord, D_ARGS)}
end

-- What a message does that only says that its task has succeeded. nil: it is not plain.
function dt.end_plain(u, m)
    local ord, j = m[2], jobs[m[1]]
    if m[5] ~= END_SUCCEED or m[8] or m[4] ~= 1 or not j or j.state == JOB_CANCELLING then return end
    local s, h = bytes_of(j, ord)
    if not s or sub(s, 1, 4) ~= CLAIMED then return end
    local tails, was = u.ended, sub(s, 38)
    if not tails then
        tails = {}
        u.ended = tails
    end
    local to = tails[was]
    if to == nil then
        local bits, prio, attempt, by, begun, token = unpack_s('<I2bBI3I7c8', was)
        to = plain(bits) and by == u.worker and token ~= ZERO8
            and {token = token, tail = pack('<I2bBI3I7I7BB', bits, prio, attempt, by, begun, now, R_NONE, 0)}
        tails[was] = to
    end
    if not to or to.token ~= m[3] then return end
    local kind, parent = unpack_s('<I3I4', s, 5)
    local row = type_row(kind)
    if row and row.listeners ~= 0 then return end
    local v = m[6]
    if v and v ~= '' and v ~= '\192' then data_put(j, ord, D_RESULT, v) end
    hset(h, ROW[ord % 64], DONE .. sub(s, 5, 37) .. to.tail)
    moved(j, RUNNING, SUCCEEDED)
    held_drop(u.worker, to.token)
    dt.child_over(j.no, ord, parent, false)
    return WELL
end

-- The parent and state of a task whose payload may go without a look at more
-- than its bytes; nil: it has more than arguments and a result, or is not plain.
function dt.over_plain(j, ord)
    local s = bytes_of(j, ord)
    if not s then return end
    local version, mask, state, _, parent = unpack_s('<BI2BI3I4', s)
    if version ~= 1 or mask % 4 ~= 2 or not plain((unpack_s('<I2', s, 38))) then return end
    return parent, state
end
end)
