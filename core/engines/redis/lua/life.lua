-- A task's life: the one place where a task's state changes (dt.move), and
-- the procedures of the state machine around it. See core/model/life.c.

function dt.bad(r) return r.state == FAILED or (r.state == SUCCEEDED and r.bad ~= 0) end
function dt.good(r) return r.state == SUCCEEDED and r.bad == 0 end
local bad, good = dt.bad, dt.good

-- The job's flag counts at once, ahead of the pass.
function dt.ending(t) return t.j.state == JOB_CANCELLING or t.bits % 16 >= CANCEL end
local ending = dt.ending
local unown, move, due_clear, finish, holds

room(function()
-- NEW: 1 type, 2 prio, 3 bits (1 may_fail, 2 journal), 4 call, 5 args, 6 retries, 7 crashes, 8 timeout_ms, 9 ptries, 10 due, 11 expires,
-- 12 refs, 13 keys.
function dt.task_make(j, ord, new, parent)
    local t
    if parent then
        t = task_new(j, ord, new[1], new[4] or ZERO16, new[6] or 0, new[7] or 0, new[8] or 0, parent.ord, fixed(parent).depth + 1)
        if parent.tries ~= 0 then t.ptries = parent.tries end
    else
        t = task_new(j, ord, new[1], new[4] or ZERO16, new[6] or 0, new[7] or 0, new[8] or 0, 0, 0)
    end
    local bits = new[3]
    if new[2] ~= 0 then t.prio = new[2] end
    if bits ~= 0 then t.bits = bits % 2 * SEEN + floor(bits / 2) % 2 * JOURNAL end
    if (new[10] or 0) ~= 0 then t.due = new[10] end
    if (new[11] or 0) ~= 0 then t.expires = new[11] end
    if (new[5] or '') ~= '' then data_set(t, D_ARGS, new[5]) end
    if new[13] and #new[13] > 0 then dt.keys_store(t, new[13]) end
    if t.expires ~= 0 then due_put(t.expires, t) end
    j.next = ord + 1
    return t
end

-- ---- moving --------------------------------------------------------------------------
function dt.unown(t)
    local owner = t.owner
    if owner == 0 then return end
    held_drop(owner, t.token)
    t.owner, t.token = 0, ZERO8
    if t.seq ~= 0 then t.seq = 0 end
end
unown = dt.unown

function dt.move(t, to)
    local from, j = t.state, t.j
    if not legal[from * 16 + to] then
        raise(EINTERNAL, 'task %d of job no %d may not go from %s to %s: a bug, please report it', t.ord, t.job, state_names[from], state_names[to])
    end
    if t.bits >= PERMIT and band(t.bits, PERMIT) ~= 0 and (from == READY or from == RUNNING) and to ~= RUNNING and to ~= READY then
        dt.permits_return(t, from == READY)
    end
    if to ~= RUNNING and to ~= PARKED then unown(t) end
    if from == READY and t.lost ~= 0 then zdel(alone(t.type), pack('>I6I4', t.job, t.ord)) end -- nobody shall run dry for it
    if from < STATES then j[from] = j[from] - 1 end
    j[to] = j[to] + 1
    j.last = to -- where the only task of a job is
    t.state = to
end
move = dt.move

local function settle(t, to)
    if t.state ~= to then move(t, to) end
end

function dt.due_clear(t)
    local due = t.due
    if due == 0 then return end
    -- The same row may also be the one by which an unbegun task expires.
    if t.begun ~= 0 or due ~= t.expires then due_del(due, t) end
    t.due = 0
end
due_clear = dt.due_clear

function dt.due_set(t, at)
    due_clear(t)
    t.due = at
    due_put(at, t)
end

function dt.admit(t)
    if ending(t) then return dt.finish(t, CANCELLED, R_NONE) end
    if t.begun == 0 and t.expires ~= 0 and t.expires <= now then return dt.finish(t, SKIPPED, R_EXPIRED) end
    if t.need ~= 0 then return settle(t, BLOCKED) end
    if t.due > now then
        settle(t, SCHEDULED)
        due_put(t.due, t)
        return
    end
    due_clear(t)
    if t.j.paused ~= 0 then
        settle(t, BLOCKED)
        t.wait = PAUSE
        return
    end
    local bits = t.bits
    if bits >= PERMIT and band(bits, PERMIT) ~= 0 then dt.permits_return(t, false) end -- of the attempt that is over; `ready` has its own
    local full = bits >= HAS_KEYS and band(bits, HAS_KEYS) ~= 0 and dt.permits_take(t, false) or 0
    if full ~= 0 then
        local over = dt.key_at(t, full)[3]
        if t.begun == 0 and over == 1 then return dt.finish(t, SKIPPED, R_LIMIT) end
        if t.begun == 0 and over == 2 then return dt.finish(t, FAILED, R_LIMIT) end
        settle(t, BLOCKED)
        return dt.limit_await(t, full, false)
    end
    move(t, READY)
    dt.lane_add(t)
end

-- ---- ending --------------------------------------------------------------------------
-- For who waits from outside: the effects name so many, the bells look for all.
local function tell_waiters(job, ord)
    local ends = fx.ends
    local e = {job, ord}
    if #ends >= ENDED_MAX then fx.ended_more = true else insert(fx.ended, e) end
    ends[#ends + 1] = e
end

-- What an end of no root does to others. blame: of a bad one that nobody has seen.
function dt.child_over(job, ord, parent, is_bad, blame)
    tell_waiters(job, ord)
    local p = task(job, parent)
    if not p or p.open == 0 then raise(EINTERNAL, 'task %d of job no %d has no open parent', ord, job) end
    p.open = p.open - 1
    if blame then
        if p.bad == 0 then p.blame = blame end
        p.bad = p.bad + 1
    end
    local state = p.state
    if state == CLOSING then
        if p.open == 0 then dt.push(DO_COMPLETE, job, parent, 0, 0) end
        return
    end
    if state ~= RUNNING and state ~= PARKED then return end
    if band(p.bits, TELLS) ~= 0 and dt.told_has(p, ord, is_bad) then dt.log_add(p, KID, ord, '', '') end
    if band(p.wait, AWAITS) ~= 0 and dt.holds(p) then dt.wake_up(p) end
end

local function complete(t, verdict)
    move(t, verdict)
    t.ended = now
    local bits = t.bits
    if verdict == FAILED then dt.dead(t, true) end
    if bits >= HAS_KEYS then
        if band(bits, HAS_KEYS) ~= 0 then dt.unique_free(t, false) end
        if band(bits, HAS_EDGES) ~= 0 then dt.push(DO_EDGES, t.job, t.ord, 0, 0) end
    end
    if t.nkids ~= 0 and t.j.keep ~= KEEP_ALL then dt.push(DO_DROP, t.job, t.ord, 1, 0) end
    local row = type_row(t.type)
    if bits >= UNDO or (row and row.listeners ~= 0) or (t.ord == 0 and (meta.any_root ~= 0 or t.j.type ~= t.type)) then dt.hooks(t) end
    if t.ord == 0 then return dt.job_end(t) end
    local is_bad = bad(t)
    dt.child_over(t.job, t.ord, t.parent, is_bad, is_bad and bits % 2 == 0 and (t.state == FAILED and t.ord or t.blame)) -- not SEEN
end

function dt.finish(t, verdict, reason)
    due_clear(t)
    if t.expires ~= 0 and t.begun == 0 then due_del(t.expires, t) end
    if t.wait ~= 0 then t.wait = 0 end
    if t.at_limit ~= 0 then t.at_limit = 0 end
    if reason ~= t.reason then t.reason = reason end
    if t.open == 0 then return complete(t, verdict) end
    t.verdict = verdict
    move(t, CLOSING)
end
finish = dt.finish

function dt.do_complete(d)
    local t = task(d.job, d.ord)
    if t and t.state == CLOSING and t.open == 0 then complete(t, t.verdict) end
end

function dt.do_settle(d)
    local t = task(d.job, d.ord)
    if t and t.state == READY then
        if ending(t) then finish(t, CANCELLED, R_NONE) else finish(t, SKIPPED, R_EXPIRED) end
    end
end

-- Its dependents. A row that is gone was purged, with its job.
function dt.do_edges(d)
    local dep = look(d.job, d.ord)
    if not dep then return false end
    local is_good, l, i = good(dep), edges_of(d.job, d.ord), 0
    while dt.spend(i) do
        local ord = tonumber(fifo_take(l) or nil)
        if not ord then return false end
        local t = task(d.job, ord)
        if t and t.state == BLOCKED and t.need ~= 0 then
            if not is_good then
                if ending(t) then finish(t, CANCELLED, R_NONE) else finish(t, SKIPPED, R_AFTER) end
            else
                t.need = t.need - 1
                if t.need == 0 then dt.admit(t) end
            end
        end
        i = i + 1
    end
    return true
end

-- ---- waiting ---------------------------------------------------------------------------
function dt.holds(t)
    if ending(t) then return true end
    local wait = t.wait
    if wait % 2 == 1 and t.open == 0 then return true end
    if band(wait, DUE) ~= 0 and t.due <= now then return true end
    return band(wait, MAIL) ~= 0 and dt.log_unread(t)
end
holds = dt.holds

-- Tells the owner: that it runs again, or that it is to end within its grace.
local function tell_owner(t, cancel)
    local w = worker_at(t.owner)
    if not w then raise(EINTERNAL, 'worker no %d owns a task and is gone', t.owner) end
    w.next_wake = w.next_wake + 1
    wake_put(w.no, w.next_wake, cancel, t)
    if cancel then dt.due_set(t, now + t.j.grace_us) end
    if not fx.woken[w.no] then
        fx.woken[w.no] = true
        insert(fx.workers, w.no)
    end
end

function dt.wake_up(t)
    if t.owner == 0 then return dt.push(DO_WAKE, t.job, t.ord, 0, 0) end
    if t.state == PARKED then
        if band(t.wait, LIMIT_WAIT) ~= 0 then return end
        if t.j.paused ~= 0 and not ending(t) then
            t.wait = bor(t.wait, PAUSE)
            return
        end
        local full = band(t.bits, HAS_KEYS) ~= 0 and band(t.bits, PERMIT) == 0 and dt.permits_take(t, true) or 0
        if full ~= 0 then return dt.limit_await(t, full, true) end
        move(t, RUNNING)
    end
    due_clear(t)
    t.wait = 0
    if band(t.bits, JOURNAL) ~= 0 then dt.log_add(t, WOKE, t.logn, '', '') end
    tell_owner(t, ending(t))
end

local function deps_good(t)
    if band(t.bits, HAS_DEPS) == 0 then return true end
    local deps = data_get(t.job, t.ord, D_DEPS)
    for at = 1, #deps, 4 do
        local dep = look(t.job, (unpack_s('<I4', deps, at)))
        if not dep or not good(dep) then return false end
    end
    return true
end

function dt.do_wake(d)
    local t = task(d.job, d.ord)
    if not t or t.state ~= PARKED or t.owner ~= 0 then return end
    if not holds(t) then -- the clock was set back since its time came
        if band(t.wait, DUE) ~= 0 then due_put(t.due, t) end
        return
    end
    if band(t.wait, THEN) ~= 0 and not ending(t) and (t.bad ~= 0 or not deps_good(t)) then return finish(t, FAILED, R_CHILDREN) end
    due_clear(t)
    t.wait = 0
    dt.admit(t)
end

-- ---- cancel, loss, release ---------------------------------------------------------------
function dt.cancel(t)
    if t.state >= SUCCEEDED or band(t.bits, CANCEL) ~= 0 then return end
    t.bits = t.bits + CANCEL
    if t.state == CLOSING then return end
    if t.state == RUNNING and t.wait == 0 then return tell_owner(t, true) end
    if t.state == RUNNING or (t.state == PARKED and t.owner ~= 0) then return dt.wake_up(t) end
    finish(t, CANCELLED, R_NONE)
end

local function drop_frame(t)
    unown(t)
    local held_up = band(t.wait, LIMIT_WAIT + PAUSE)
    if held_up == 0 then return end
    t.wait = t.wait - held_up -- what it awaited is there: it queues as any
    t.at_limit = 0
    dt.push(DO_WAKE, t.job, t.ord, 0, 0)
end

-- A task that must never run twice fails once it may have run.
local function give_up(t)
    if ending(t) then finish(t, CANCELLED, R_NONE) else finish(t, FAILED, R_LOST) end
end

local function ready_again(t)
    due_clear(t)
    t.wait = 0
    dt.admit(t)
end

function dt.lose(t, charge) -- its owner is gone
    if charge and t.state == RUNNING then t.lost = t.lost + 1 end
    fixed(t)
    if t.crashes == 0 or t.lost > t.crashes then return give_up(t) end
    if t.state == PARKED then return drop_frame(t) end
    ready_again(t)
end

function dt.release(t) -- given back: running is admitted, a warm frame dropped
    if t.begun ~= 0 and fixed(t).crashes == 0 then return give_up(t) end
    if t.state == PARKED then return drop_frame(t) end
    ready_again(t)
end
end)
