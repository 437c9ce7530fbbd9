-- Alerts: what operators are to be told, until every target has it.
--
-- They belong to the installation, not to a tenant: their keys are their own, and the tenant, where there is one, is told.

CREATE TABLE dari.alerts (
    number      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- Made by whoever raised it: an alert that is stored a second time changes nothing.
    id          uuid NOT NULL UNIQUE,
    tenant      text NOT NULL DEFAULT '',
    kind        text NOT NULL,
    subject     text NOT NULL,
    code        text NOT NULL DEFAULT '',
    item        text NOT NULL DEFAULT '',
    times       bigint NOT NULL DEFAULT 1 CHECK (times >= 0),
    host        text NOT NULL DEFAULT '',
    -- NEW: nobody has decided yet whether it is told. HELD: it waits for the end of its quiet period.
    state       text NOT NULL DEFAULT 'NEW' CHECK (state IN ('NEW', 'HELD', 'TOLD')),
    -- Others of its kind and subject that were not told and that it stands for.
    held_back   bigint NOT NULL DEFAULT 0 CHECK (held_back >= 0),
    happen_time timestamptz NOT NULL DEFAULT now(),
    create_time timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX alerts_undecided ON dari.alerts (number) WHERE state IN ('NEW', 'HELD');

-- What operators know of one kind of alert about one subject: core/quiet_periods.py says what each column means.
CREATE TABLE dari.alert_matters (
    tenant      text NOT NULL,
    kind        text NOT NULL,
    subject     text NOT NULL,
    quiet_until timestamptz,
    heard_time  timestamptz,
    goes_on     boolean NOT NULL DEFAULT false,
    is_held     boolean NOT NULL DEFAULT false,
    held_back   bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, kind, subject)
);

-- One line for each target of each alert that is told: what one target has, no failure of another sends it again.
CREATE TABLE dari.alert_deliveries (
    alert          bigint NOT NULL REFERENCES dari.alerts ON DELETE CASCADE,
    -- Its name in the settings; its address stands there only.
    target         text NOT NULL,
    attempts       integer NOT NULL DEFAULT 0,
    -- Not before: the end of a lease, or of a pause behind a failure.
    due_time       timestamptz NOT NULL,
    delivered_time timestamptz,
    PRIMARY KEY (alert, target)
);
CREATE INDEX alert_deliveries_due ON dari.alert_deliveries (target, alert) WHERE delivered_time IS NULL;

GRANT SELECT, INSERT, UPDATE, DELETE ON dari.alerts, dari.alert_matters, dari.alert_deliveries TO dari_app;
