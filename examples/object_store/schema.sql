-- The catalogue. Every statement may run again and again.

create schema if not exists object_store;

create table if not exists object_store.objects (
    id bigint generated always as identity primary key,
    key text not null unique,
    size bigint not null,
    sha256 text not null,
    created_at timestamptz not null default clock_timestamp(),
    expires_at timestamptz
);

create index if not exists objects_expires_at on object_store.objects (expires_at) where expires_at is not null;

-- No "on delete cascade": a copy whose row vanished would leave its file behind. Whoever deletes an object must hand
-- its files to the clean-up queue first, and the foreign key sees to it.
create table if not exists object_store.copies (
    object_id bigint not null references object_store.objects,
    folder text not null,
    file_name text not null unique,
    primary key (object_id, folder)
);

create index if not exists copies_folder on object_store.copies (folder);

-- Files that are to go: copies that were removed, and files being written that nobody has confirmed yet.
create table if not exists object_store.cleanup_queue (
    file_name text primary key,
    folder text not null,
    writing boolean not null,  -- true: announced by a writer, who may still turn it into a copy
    due_at timestamptz not null default clock_timestamp(),
    attempts integer not null default 0,
    last_error text not null default ''
);

create index if not exists cleanup_queue_due_at on object_store.cleanup_queue (due_at);

create table if not exists object_store.folder_usage (
    folder text primary key,
    copies bigint not null,
    bytes bigint not null,
    measured_at timestamptz not null
);

-- All times are the database's, so that the runs of different replicas can be compared.
create table if not exists object_store.runs (
    id bigint generated always as identity primary key,
    service text not null,
    replica text not null,
    request_id text not null,
    scheduled_at timestamptz not null,  -- but this one: the slot, by the replica's clock
    started_at timestamptz not null default clock_timestamp(),
    last_seen_at timestamptz not null default clock_timestamp(),
    ended_at timestamptz
);
