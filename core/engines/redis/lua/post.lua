-- post: a signal for a task, kept until it is received. See core/model/post.c.
lazy(function()
-- 2 id, 3 ord, 4 msgid, 5 name, 6 data; reply: status.
function dt.op_post(p)
    local no, ord, name, data = dt.job_find(p[2]), p[3] or 0, p[5] or '', p[6] or ''
    local t = no and task(no, ord)
    if not t then return {NOTASK} end
    local key = p[4] .. pack('<I8I8', no, ord)
    if dt.unique_find(key) then return {DUP} end
    if t.state >= CLOSING then return {ENDED} end
    if t.notes >= 10000 or t.log_bytes + #name + #data > 1048576 then return {POST_FULL} end
    local until_us = now + 86400000000 -- how long a message id is known
    uniq_put(key, {['until'] = 0, scope = 0, freed = 1, ord = ord, job = no, call = ZERO16, keep_us = 0, lapse = until_us})
    lapse(until_us, LAPSE_UNIQUE, key)
    dt.log_add(t, SIG, 0, name, data)
    if (t.state == RUNNING or t.state == PARKED) and band(t.wait, AWAITS) ~= 0 and holds(t) then dt.wake_up(t) end
    return {POSTED}
end
end)
