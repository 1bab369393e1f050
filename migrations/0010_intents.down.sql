-- Intents and prepared transactions.
SELECT pg_catalog.set_config('pggit.migration', 'on', true);

DROP FUNCTION pggit.settle_prepared(), pggit.remember_prepared(text, text, uuid, uuid[]), pggit.full_xid(xid);
DROP TABLE pggit.prepared;
DROP FUNCTION pggit.settle_intent(uuid, text, text, text), pggit.was_recorded(pggit.intents),
    pggit.settle_relations(pggit.intents, text), pggit.settle_settings(pggit.intents), pggit.settle_object(pggit.intents, text),
    pggit.record_intended(pggit.intents, text, text, text, text, text, oid, oid, oid, text, integer), pggit.is_running(pggit.intents),
    pggit.intend(uuid, uuid, text, text, text, text, text, text[], text, text, text, inet, integer, text, integer, text),
    pggit.look_up(text, text, oid), pggit.system_settings();
DROP TABLE pggit.intents;
