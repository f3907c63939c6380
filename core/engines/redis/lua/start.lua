-- start: a new job, known by its id. See core/model/start.c.
-- reply: status, job, joined.
function dt.op_start(s)
    local id, new = s[2], s[3]
    local job = dt.job_find(id)
    if job then
        local root = look(job, 0)
        return {root and fixed(root).call == new[4] and EXISTS or CONFLICT, job}
    end
    local row = type_row(new[1])
    if s[13] and not (row and row.name == s[13]) then
        new[1] = dt.type_find(s[13], 0)
        row = new[1]
    end
    if not row then return {UNKNOWN} end
    local skipped_for, unique = '', new[13] and dt.unique_of(new)
    if unique then
        local key = dt.key_of(unique, meta.next_job)
        local u = dt.unique_find(key)
        if u then
            local joined = dt.task_id(u.job, u.ord)
            if unique[3] ~= 1 then -- not over=drop
                return {(unique[3] == 4 or (unique[6] and u.call ~= new[4])) and CONFLICT or EXISTS, u.job, joined}
            end
            skipped_for = dt.joined_note(joined)
        else
            dt.unique_take(key, unique, meta.next_job, 0, new[4])
        end
    end
    if meta.shards > 1 and (new[10] or 0) > now then dt.ring_later() end
    return {CREATED, dt.job_begin(s, 0, skipped_for)}
end
