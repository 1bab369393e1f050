-- Change requests.
SELECT pg_catalog.set_config('pggit.migration', 'on', true);

DROP FUNCTION pggit.note_author(uuid, text, text, text, text), pggit.search_path_of(text), pggit.forget_expired(),
    pggit.note_release(bigint, uuid), pggit.note_runs(uuid[]),
    pggit.note_own_runs(uuid[], uuid[], boolean[]), pggit.note_applied(uuid, text, timestamptz, text),
    pggit.enter_request(uuid, text, text), pggit.leave_request(),
    pggit.note_request(uuid, uuid, text, text, text, text, inet, integer, text, text, text, text[], boolean, text, jsonb, uuid, text, interval, bigint, text);
DROP TABLE pggit.applied_requests;
DROP TABLE pggit.change_requests;
