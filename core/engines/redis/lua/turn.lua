-- turn: a worker's outcomes in, new claims and wakes out. Each message
-- stands alone: it is checked whole before anything of it is written.
-- See core/model/turn.c.
--
-- MESSAGE: 1 job, 2 ord, 3 token, 4 seq, 5 end, 6 value, 7 bits (1 retry, 2 freed, 4 unstarted), 8 NEW*, 9 notes, 10 acks, 11 told,
-- 12 progress, 13 state, 14 retry_at, 15 mask, 16 how, 17 due, 18 read, 19 next.
lazy(function()

-- ---- what a message refers to: an ordinal, or a place in its children ----------------------
-- g: m the message, t its task, kids its children (none where the task is
-- ending), ords by place (0: joined), joined, and what the answer says.
local function own_child(g, ord)
    local r = ord ~= 0 and look(g.t.job, ord)
    return r and r.parent == g.t.ord
end

local function ref_ok(g, ref, count)
    if ref >= HERE then return ref - HERE < count end
    return own_child(g, ref)
end

local function joined_at(g, pos)
    for _, j in ipairs(g.joined or NONE) do
        if j[1] == pos then return j end
    end
end

-- ---- checking -----------------------------------------------------------------------------
local function child_ok(g, c, count)
    if not type_row(c[1]) or c[2] < -2 or c[2] > 2 then return false end
    for _, ref in ipairs(c[12] or NONE) do
        if ref < HERE then
            if not own_child(g, ref) then return false end
        elseif g.nkids ~= 0 and ref - HERE >= count then
            return false
        end
    end
    return true
end

local function notes_fit(g, notes)
    local t, j = g.t, g.t.j
    local n, bytes, emits, emit_bytes = t.notes, t.log_bytes, j.log_n, j.log_bytes
    for _, note in ipairs(notes) do
        local size = #(note[2] or '') + #(note[3] or '')
        if note[1] == EMIT then emits, emit_bytes = emits + 1, emit_bytes + size else n, bytes = n + 1, bytes + size end
    end
    return n <= 10000 and bytes <= 1048576 and emits <= 100000 and emit_bytes <= 16777216
end

local function well_formed(g)
    local m, t = g.m, g.t
    local ends = m[5]
    if t.state == PARKED and ends ~= END_RELEASE and ends ~= END_NONE then return false end -- its handler does not run
    local children = m[8] or NONE
    local n = #children
    for i = 1, n do
        if not child_ok(g, children[i], i - 1) then return false end
    end
    for _, a in ipairs(m[10] or NONE) do
        if not ref_ok(g, a[1], n) then return false end
    end
    for _, r in ipairs(m[11] or NONE) do
        if (r[2] or 0) == 0 or not ref_ok(g, r[1], n) then return false end
        local here = r[1] >= HERE
        if (here and r[1] - HERE or r[1]) + r[2] > (here and n or t.j.next) then return false end
    end
    for _, note in ipairs(m[9] or NONE) do
        if note[1] ~= NOTE and note[1] ~= EMIT and note[1] ~= UNDOING then return false end
    end
    if ends == END_PARK then
        local mask = m[15] or 0
        if mask == 0 or mask > AWAITS or (band(mask, DUE) ~= 0 and (m[17] or 0) <= 0) then return false end
    end
    if ends == END_BECOME and not (m[19] and child_ok(g, m[19], n)) then return false end
    return ends <= END_BECOME
end

-- ---- unique keys of children ---------------------------------------------------------------
local function redo_of(g, u, c)
    if u.job ~= g.t.job or u.call ~= c[4] or not own_child(g, u.ord) then return false end
    if band(look(u.job, u.ord).bits, REPLACED) ~= 0 then return true end
    for _, a in ipairs(g.m[10] or NONE) do
        if a[1] == u.ord and a[2] then return true end
    end
    return false
end

local function take_key(g, key, s, ord, c)
    g.taken = g.taken or {}
    insert(g.taken, {key, uniq_at(key) or false})
    dt.unique_take(key, s, g.t.job, ord, c[4])
end

local function give_keys_back(g)
    local taken = g.taken or NONE
    for i = #taken, 1, -1 do uniq_put(taken[i][1], taken[i][2]) end
end

local function join(g, pos, u, conflict)
    g.joined = g.joined or {}
    insert(g.joined, {pos, u.ord, u.job, data_get(u.job, 0, D_ID), conflict})
end

-- Gives each child its ordinal, or the task that it joins.
local function place_children(g)
    local first = g.t.j.next
    local next, ords = first, {}
    for i = 1, g.nkids do
        local c = g.kids[i]
        local s = c[13] and dt.unique_of(c)
        local ord = next
        if s then
            local key = dt.key_of(s, g.t.job)
            local u = dt.unique_find(key)
            if u and not redo_of(g, u, c) then
                local conflict = s[3] == 4 or (s[6] and u.call ~= c[4]) or false
                if conflict or s[5] ~= 0 then -- no row
                    join(g, i - 1, u, conflict)
                    ord = 0
                else
                    g.skipped_for = g.skipped_for or {}
                    g.skipped_for[i] = dt.joined_note(dt.task_id(u.job, u.ord))
                end
            else
                take_key(g, key, s, next, c)
            end
        end
        ords[i] = ord
        if ord ~= 0 then next = next + 1 end
    end
    g.ords = ords
    g.count = next - first
    g.first = g.count ~= 0 and first or 0
end

-- A dependency on a joined task is fine if that one is good, and else a
-- circle that could form.
local function joined_deps_ok(g, c)
    for _, ref in ipairs(c[12] or NONE) do
        local j = ref >= HERE and joined_at(g, ref - HERE)
        if j then
            local r = look(j[3], j[2])
            if j[3] ~= g.t.job or not r or not good(r) then return false end
        end
    end
    return true
end

-- ---- writing ------------------------------------------------------------------------------------
local function ord_of(g, ref) -- 0: joined, or not made
    if ref < HERE then return ref end
    return g.ords[ref - HERE + 1] or 0
end

local function set_deps(g, t, c)
    local deps = c[12]
    if not deps or #deps == 0 then return end
    local s = {}
    for i, ref in ipairs(deps) do
        local j = ref >= HERE and joined_at(g, ref - HERE)
        s[i] = pack('<I4', j and j[2] or ord_of(g, ref))
    end
    data_set(t, D_DEPS, concat(s))
    t.bits = bor(t.bits, HAS_DEPS)
end

-- Ties it to the deps that are not terminal; false: one has ended not good.
local function tie(g, t, c)
    local ok = true
    for _, ref in ipairs(c[12]) do
        local ord = ord_of(g, ref)
        local dep = ord ~= 0 and look(t.job, ord)
        if dep and dep.state >= SUCCEEDED then
            ok = ok and good(dep)
        elseif dep then -- else joined, and good
            local l = edges_of(t.job, ord)
            if tonumber(l.add[#l.add]) ~= t.ord then
                fifo_put(l, tostring(t.ord))
                dep = task(t.job, ord)
                dep.bits = bor(dep.bits, HAS_EDGES)
                t.need = t.need + 1
            end
        end
    end
    return ok
end

local function make_child(g, i, ord, c, lastly)
    local p = g.t
    local t = dt.task_make(p.j, ord, c, p)
    if lastly then t.bits = t.bits + LASTLY end
    if c[12] then set_deps(g, t, c) end
    if g.skipped_for and g.skipped_for[i] then
        data_set(t, D_ERROR, g.skipped_for[i])
        t.bits = bor(t.bits, HAS_ERROR)
        dt.finish(t, SKIPPED, R_UNIQUE)
    elseif c[12] and #c[12] > 0 and not tie(g, t, c) then
        dt.finish(t, SKIPPED, R_AFTER) -- edges to those that live find nobody
    else
        dt.admit(t)
    end
end

local function spawn(g)
    local p = g.t
    if g.count == 0 then return end
    kids_add(p, {first = g.first, count = g.count, attempt = p.attempt, seq = p.seq})
    p.lastkid, p.nkids, p.open = g.first, p.nkids + 1, p.open + g.count
    local lastly = g.m[5] == END_SUCCEED
    for i = 1, g.nkids do
        local ord = g.ords[i]
        if ord ~= 0 then
            local c = g.kids[i]
            if not dt.make_plain(g, ord, c, lastly) then make_child(g, i, ord, c, lastly) end
        end
    end
end

local function note(g)
    for _, n in ipairs(g.m[9] or NONE) do
        if n[1] == EMIT then dt.log_emit(g.t, n[2] or '', n[3] or '') else dt.log_add(g.t, n[1], 0, n[2] or '', n[3] or '') end
        if n[1] == UNDOING then g.t.bits = bor(g.t.bits, UNDO) end
    end
end

local function acknowledge(g)
    local p = g.t
    for _, a in ipairs(g.m[10] or NONE) do
        local ord = ord_of(g, a[1])
        local r = ord ~= 0 and task(p.job, ord)
        if r then -- else joined: its failure is its parent's
            if r.bits % 2 == 0 then
                r.bits = r.bits + SEEN
                if bad(r) then
                    p.bad = p.bad - 1
                    if p.bad == 0 then p.blame = 0 end
                end
            end
            if a[2] then r.bits = bor(r.bits, REPLACED) end
        end
    end
end

-- Says whose completion is to come by mail. Of up to CHILDREN_MAX those that
-- are complete already come at once; of more, none.
local function tell(g)
    local told = g.m[11] or NONE
    if #told == 0 then return end
    local add, all, t = {}, 0, g.t
    for _, r in ipairs(told) do
        local first, count = r[1], r[2]
        if first >= HERE then -- places to ordinals: those made are dense
            local from = first - HERE
            local stop = min(from + count, g.nkids)
            first, count = 0, 0
            for pos = from + 1, stop do
                if g.ords[pos] == 0 then g.told_joined = true
                else
                    if count == 0 then first = g.ords[pos] end
                    count = count + 1
                end
            end
        end
        if count ~= 0 then
            insert(add, {first, count, r[3] or false})
            all = all + count
        end
    end
    if all <= CHILDREN_MAX then
        for _, a in ipairs(add) do
            dt.rows_ahead(t.job, a[1], a[2])
            for ord = a[1], a[1] + a[2] - 1 do
                local r = look(t.job, ord)
                if r and r.parent == t.ord and r.state >= SUCCEEDED and (not a[3] or bad(r)) then dt.log_add(t, KID, ord, '', '') end
            end
        end
    end
    dt.told_add(t, add)
end

-- ---- ends -----------------------------------------------------------------------------------------
local function mail_now(g)
    g.now = true
    g.mails, g.more = dt.mails(g.t.job, g.t.ord, g.t.logr, MAILS_MAX, false)
end

local function park(g)
    local m, t = g.m, g.t
    dt.log_read(t, m[18] or 0)
    local is_ending = ending(t)
    if not is_ending then due_clear(t) end -- ending: its due is the end of its grace
    t.wait = m[15]
    if band(m[15], DUE) ~= 0 and not is_ending then t.due = m[17] end
    t.park_seq = m[4]
    -- One that it awaits is no child of its: it must look again.
    if g.told_joined or holds(t) then
        if not is_ending then t.due = 0 end
        t.wait = 0
        if band(t.bits, JOURNAL) ~= 0 then dt.log_add(t, WOKE, t.logn, '', '') end
        return mail_now(g)
    end
    if t.due ~= 0 then due_put(t.due, t) end
    if (m[16] or 0) == STAY then return end
    move(t, PARKED)
    if m[16] == COLD then dt.release(t) end
end

local function become(g)
    local next, t = g.m[19], g.t
    due_clear(t)
    move(t, PARKED)
    dt.log_read(t, g.m[18] or 0)
    dt.log_restart(t)
    if band(t.bits, TELLS) ~= 0 then dt.told_clear(t) end
    local unique -- the key that it holds is its call's, which stays
    local i, s = 1, band(t.bits, HAS_KEYS) ~= 0 and dt.key_at(t, 1)
    while s and not unique do
        if s[2] == 1 then unique = s end
        i = i + 1
        s = dt.key_at(t, i)
    end
    local keys = {}
    for _, k in ipairs(next[13] or NONE) do
        if (k[2] or 0) == 0 then insert(keys, k) end
    end
    dt.keys_store(t, keys, unique)
    data_change(t, D_ARGS, next[5] or '')
    if band(t.bits, HAS_DEPS) ~= 0 then data_set(t, D_DEPS, false) end
    if band(t.bits, HAS_ERROR) ~= 0 then data_set(t, D_ERROR, false) end
    t.bits = t.bits - band(t.bits, HAS_DEPS + HAS_ERROR + FIRST + JOURNAL + LASTLY)
    if floor(next[3] / 2) % 2 == 1 then t.bits = t.bits + JOURNAL end
    set_deps(g, t, next)
    fixed(t).fix = nil
    t.type, t.prio, t.retries, t.crashes, t.timeout_ms = next[1], next[2], next[6] or 0, next[7] or 0, next[8] or 0
    t.tries, t.freed, t.lost, t.emits = 0, 0, 0, 0
    t.base = t.j.next
    t.wait = QUIET + THEN
    t.park_seq = g.m[4]
    unown(t)
    if holds(t) then dt.wake_up(t) end
end

local function fail(g)
    local m, t = g.m, g.t
    local retry, freed = m[7] % 2 == 1, m[7] % 4 >= 2
    t.tries = t.tries + 1
    if retry and freed and t.freed < 10000 then t.freed = t.freed + 1 end
    local again = retry and t.tries - t.freed <= fixed(t).retries and not ending(t)
    if (m[6] or '') ~= '' then
        data_set(t, D_ERROR, m[6])
        t.bits = bor(t.bits, HAS_ERROR)
    end
    if not again then return dt.finish(t, ending(t) and CANCELLED or FAILED, R_NONE) end
    due_clear(t)
    t.wait = 0
    t.bits = t.bits - band(t.bits, FIRST)
    t.due = m[14] or 0
    dt.admit(t)
end

local function set_value(t, kind, bit, v)
    if not v or v == '' then return end
    data_set(t, kind, v)
    t.bits = bor(t.bits, bit)
end

local function ended(g)
    local m, t = g.m, g.t
    local kind, v = m[5], m[6]
    if kind == END_NONE then return
    elseif kind == END_SUCCEED then
        if t.bits >= HAS_ERROR then -- of an earlier try
            data_set(t, D_ERROR, false)
            t.bits = t.bits - HAS_ERROR
        end
        if v and v ~= '' and v ~= '\192' then data_set(t, D_RESULT, v) end
        return dt.finish(t, SUCCEEDED, R_NONE)
    elseif kind == END_FAIL then return fail(g)
    elseif kind == END_CANCELLED then
        set_value(t, D_ERROR, HAS_ERROR, v)
        return dt.finish(t, CANCELLED, R_NONE)
    elseif kind == END_SKIP then return dt.finish(t, SKIPPED, R_TEST)
    elseif kind == END_RELEASE then
        if m[7] % 8 >= 4 and band(t.bits, FIRST) ~= 0 and t.state == RUNNING and t.nkids == 0 then -- it has not begun
            t.begun = 0
            t.bits = t.bits - FIRST
            t.j.claimed = t.j.claimed - 1
            if t.expires ~= 0 then due_put(t.expires, t) end
        end
        return dt.release(t)
    elseif kind == END_PARK then return park(g)
    else return become(g) end
end

-- ---- one message -------------------------------------------------------------------------------------
-- Sent before: what it did then.
local function already(g)
    local m, t = g.m, g.t
    local children, made = m[8] or NONE, 0
    local l = t.nkids ~= 0 and kids_list(t.j, t.ord, t.nkids)
    local k
    if l then
        kids_load(l)
        for i = #l.win + #l.add, l.at, -1 do
            k = kid_at(l, i)
            if k.attempt < t.attempt or (k.attempt == t.attempt and k.seq <= m[4]) then break end
        end
        if k and k.attempt == t.attempt and k.seq == m[4] then
            g.first, g.count = k.first, k.count
            made = k.count
        end
    end
    local ord = 0
    for i, c in ipairs(children) do
        local s = c[13] and dt.unique_of(c)
        if not (made ~= 0 or g.joined or s) then break end
        local row = ord < made and look(t.job, g.first + ord)
        if row and fixed(row).call == c[4] then
            ord = ord + 1
        elseif s then
            local u = dt.unique_find(dt.key_of(s, t.job))
            if u then join(g, i - 1, u, s[3] == 4 or (s[6] and u.call ~= c[4]) or false) end
        end
    end
    if m[5] ~= END_PARK or m[4] ~= t.park_seq or t.state ~= RUNNING or t.wait ~= 0 then return end
    mail_now(g) -- the first answer said `now`, or a wake is on its way: it runs
end

-- ANSWER: status, first, count, now, cancelling, state, mask, joined, mails, more, logn.
local function answer(g, status, t, is_ending)
    local a = {status, g.first, g.count, g.now, is_ending, t.state, t.wait}
    if g.joined or g.mails or t.logn ~= 0 then
        a[8], a[9], a[10], a[11] = g.joined or NONE, g.mails or NONE, g.more or false, t.logn
    end
    return a
end

local function apply(u, m)
    local well = dt.end_plain(u, m)
    if well then return well end
    local t = task(m[1], m[2])
    if not t then return {STALE} end
    local token = m[3]
    if t.owner == 0 or t.owner ~= u.worker or token == ZERO8 or t.token ~= token then return {STALE, 0, 0, false, false, t.state} end
    local is_ending, seq = ending(t), m[4]
    local g = {m = m, t = t, first = 0, count = 0, kids = NONE, nkids = 0, now = false}
    if seq <= t.seq then
        local wait, logn = t.wait, t.logn
        already(g)
        return answer(g, ALREADY, t, is_ending)
    end
    if seq > t.seq + 1 then return answer(g, GAP, t, is_ending) end
    m[7] = m[7] or 0
    if m[8] and not is_ending then g.kids, g.nkids = m[8], #m[8] end
    if m[8] or m[5] >= END_PARK or t.state == PARKED then
        if not well_formed(g) then return answer(g, BAD, t, is_ending) end
        if not notes_fit(g, m[9] or NONE) or (g.nkids ~= 0 and fixed(t).depth >= t.j.max_depth) then return answer(g, TOOBIG, t, is_ending) end
        place_children(g)
        local status = t.j.next + g.count <= t.j.max_tasks and OK or TOOBIG
        if g.joined and status == OK then
            for i = 1, g.nkids do
                if not joined_deps_ok(g, g.kids[i]) then status = BAD end
            end
            if m[5] == END_BECOME and not joined_deps_ok(g, m[19]) then status = BAD end
        end
        if status ~= OK then
            give_keys_back(g)
            g.first, g.count, g.joined = 0, 0, nil
            return answer(g, status, t, is_ending)
        end
        t.seq = seq
        spawn(g)
        if m[9] then
            note(g)
            acknowledge(g)
            tell(g)
            set_value(t, D_PROGRESS, HAS_PROGRESS, m[12])
            set_value(t, D_STATE, HAS_STATE, m[13])
        end
    elseif m[5] == END_NONE then -- a short message: else it ends, which clears the number
        t.seq = seq
    end
    ended(g)
    return answer(g, OK, t, is_ending)
end

-- ---- the turn -------------------------------------------------------------------------------------------
-- WAKE: n, job, ord, token, seq, cancel, state, logn, mails, more.
local function wakes(u)
    local z, l, room = wakes_of(u.worker), {}, 16 * MAILS_MAX
    for e in each(z) do
        if #l == 1024 then break end
        local r = look(e.job, e.ord)
        if not r or r.owner ~= u.worker or r.token ~= e.token or (not e.cancel and r.park_seq ~= e.seq) then -- past
            zdel(z, e.m)
        else
            local mails, more = dt.mails(e.job, e.ord, r.logr, min(room, MAILS_MAX), false)
            insert(l, {e.n, e.job, e.ord, e.token, e.seq, e.cancel, r.state, r.logn, mails, more})
            room = room - #mails
        end
    end
    return l
end

-- All rows that the messages name, with few commands.
local function messages_ahead(messages)
    local by = {} -- by job and bucket
    for i = 1, #messages do
        local job, ord = messages[i][1], messages[i][2]
        if ord ~= 0 then
            local of = by[job]
            if not of then
                of = {}
                by[job] = of
            end
            local first = ord - ord % 64
            local l = of[first]
            if not l then
                l = {}
                of[first] = l
            end
            l[#l + 1] = ROW[ord % 64]
        end
    end
    for job, of in pairs(by) do
        local j = job_seen(job)
        if j then
            for first, l in pairs(of) do ahead(row_bucket(j, first), l) end
        end
    end
end

local function older(x, y) -- nonces
    local xl, xh = unpack_s('<I4I4', x)
    local yl, yh = unpack_s('<I4I4', y)
    return xh < yh or (xh == yh and xl < yl)
end

-- 2 worker, 3 era, 4 nonce, 5 got, 6 messages, 7 wants, 8 n, 9 empty, 10 only; reply: status, drain, todo, answers, claims, wakes.
function dt.op_turn(op, run_id)
    local messages, children = op[6] or NONE, 0
    for _, m in ipairs(messages) do children = children + (m[8] and #m[8] or 0) end
    if #messages > MESSAGES_MAX or children > CHILDREN_MAX then
        return nil, EARGS, format('a turn has at most %d messages with %d children in all', MESSAGES_MAX, CHILDREN_MAX)
    end
    local u = {worker = op[2], nonce = op[4], want = op[7] or NONE, n = op[8] or 0, empty = op[9], only = op[10] or 0, claims = {}, nclaims = 0, drain = false}
    local w = worker_at(u.worker)
    if not w or w.dead ~= 0 then return {TURN_DEAD, false, false} end
    if op[3] ~= meta.era or run_id ~= meta.run_id then return {TURN_ERA, false, false} end
    if older(u.nonce, w.nonce) then return {TURN_OLD, false, false} end
    local again = u.nonce == w.nonce
    if w.lease_us ~= 0 then w.expires = now + w.lease_us end

    local z = wakes_of(u.worker)
    for e in each(z) do
        if e.n > (op[5] or 0) then break end
        zdel(z, e.m)
    end
    messages_ahead(messages)
    local answers = {}
    for i, m in ipairs(messages) do answers[i] = apply(u, m) end
    dt.cascade(false)
    if again then
        dt.claim_again(u)
    else
        w.nonce = u.nonce
        dt.claim_all(u, w)
        dt.cascade(true)
        dt.make_room(CHUNK + 2 * #messages) -- as much as these can have caused
    end
    return {TURN_OK, u.drain, false, answers, u.claims, wakes(u)}
end
end)
