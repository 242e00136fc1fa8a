//! What is said of each metric: `docs/METRICS.md` is made of it.
//!
//! A text here is one line of a table in Markdown. Write `worry` for whoever is on call and did not write this.

use super::{
    About,
    book::{Entry, Kind},
};

/// What is running.
pub const BUILD_INFO: About = About {
    name: "statekeeper_build_info",
    help: "Always 1; the label says what is running.",
    labels: &[("version", "the version")],
    worry: "Never.",
};

/// What the keeper waits for.
pub const MISSING: About = About {
    name: "statekeeper_missing",
    help: "1 for each part that the keeper waits for before it can work, as in `/health/ready`; else 0.",
    labels: &[(
        "part",
        "`store`, `homeserver`, `device` or `rooms`; see [Health](OPERATIONS.md#health)",
    )],
    worry: "When one stands at 1 for minutes: nobody gets keys. \
            [`StatekeeperHomeserverUnreachable`](runbooks/StatekeeperHomeserverUnreachable.md), \
            [`StatekeeperStoreNotWritable`](runbooks/StatekeeperStoreNotWritable.md), \
            [`StatekeeperNotReady`](runbooks/StatekeeperNotReady.md).",
};

/// What is wrong.
pub const TROUBLE: About = About {
    name: "statekeeper_trouble",
    help: "1 for each trouble that lasts, by its cause, as in `/health/ready`; else 0.",
    labels: &[("cause", "see [Troubles](OPERATIONS.md#troubles)")],
    worry: "When one stands at 1: each has an alert that says what mends it.",
};

/// When it last was.
pub const TROUBLE_LAST_BEGUN: About = About {
    name: "statekeeper_trouble_last_begun_seconds",
    help: "When a trouble last began, in seconds since 1970; 0 where there was none since the start.",
    labels: &[("cause", "see [Troubles](OPERATIONS.md#troubles)")],
    worry: "When it is of this hour for `device`, which the keeper mends by itself: somebody deletes it. \
            [`StatekeeperDeviceDeleted`](runbooks/StatekeeperDeviceDeleted.md).",
};

/// Rooms.
pub const ROOMS: About = About {
    name: "statekeeper_rooms",
    help: "Rooms that the keeper knows, by status.",
    labels: &[("status", "see [Room statuses](OPERATIONS.md#room-statuses)")],
    worry: "When `not_elevated` is not 0: joiners of these rooms see no name. \
            [`StatekeeperNotElevated`](runbooks/StatekeeperNotElevated.md).",
};

/// Transactions.
pub const TRANSACTIONS: About = About {
    name: "statekeeper_transactions_total",
    help: "Transactions that the homeserver pushed, by what became of them.",
    labels: &[("outcome", "see [Transaction outcomes](OPERATIONS.md#transaction-outcomes)")],
    worry: "When `failed` rises: the disk is full or broken, and events wait. When `unauthorized` or `too_large` \
            does: the two hold different registrations, a stranger is at the listener, or the homeserver is stuck. \
            [`StatekeeperStoreNotWritable`](runbooks/StatekeeperStoreNotWritable.md), \
            [`StatekeeperTransactionsRefused`](runbooks/StatekeeperTransactionsRefused.md).",
};

/// Events that are of no use.
pub const EVENTS_DROPPED: About = About {
    name: "statekeeper_events_dropped_total",
    help: "Pushed events without a usable event id or room id.",
    labels: &[],
    worry: "When it rises at all: the homeserver is broken, or something in between changes what it sends.",
};

/// Keys that were given.
pub const ROOM_KEYS_SHARED: About = About {
    name: "statekeeper_room_keys_shared_total",
    help: "Room keys that the homeserver took for a device, by the reason for sharing.",
    labels: &[(
        "reason",
        "`invite`, `join`, `device` (it became entitled later than its user), `seal` (something was about to be \
         sealed), `request` (it asked), `resend` (it asked again after the cool-down), `forward` (it asked for a \
         member's session), `rotation` (the session before was retired; with `rotation.when: at_once`), `preview` (its user may \
         join)",
    )],
    worry: "When it stands still for days while people join.",
};

/// Keys that were not given.
pub const ROOM_KEYS_WITHHELD: About = About {
    name: "statekeeper_room_keys_withheld_total",
    help: "Room keys that policy withheld from a device, by withheld code.",
    labels: &[(
        "code",
        "`m.unverified`, `m.blacklisted`, `m.unauthorised`, `m.unavailable`, `m.no_olm`",
    )],
    worry: "When `m.unverified` rises much: many people's devices are not cross-signed and read no name. \
            `statekeeper ledger` says whose.",
};

/// Sealed state.
pub const STATE_EVENTS_SEALED: About = About {
    name: "statekeeper_state_events_sealed_total",
    help: "State events that the keeper encrypted and sent, by cause.",
    labels: &[(
        "cause",
        "`reseal` (a member gave a new value), `join` and `device` (a refresh for those who got the key late), \
         `rotation` (sealed anew because its session was retired), `restore` (what stood there broke a rule), \
         `admin` (`statekeeper refresh`), `plain` (after a copy in plain)",
    )],
    worry: "When `device` is most of it: raise `sharing.device_refresh_interval`; when `join` is: `sharing.refresh_window`. \
            Each of these is a line in the timeline.",
};

/// State that was not resealed.
pub const STATE_REFUSED: About = About {
    name: "statekeeper_state_refused_total",
    help: "State that the keeper found unfit to reseal, by the rule that it broke.",
    labels: &[(
        "rule",
        "`no_power`, `not_owner`, `critical`, `exempt`, `packed_key_mismatch`, `wrong_room`, `replayed`, \
         `device_not_cross_signed`, `identity_changed` (waits for `statekeeper confirm-identity`), \
         `sender_mismatch`, `shape`, `war` (somebody keeps sealing again what the keeper sealed, or keeps breaking \
         rules)",
    )],
    worry: "When it rises: a client is broken, or somebody tries to have the keeper vouch for what is not theirs. \
            At `war`: see [Enforcement](OPERATIONS.md#enforcement). \
            [`StatekeeperStateRefused`](runbooks/StatekeeperStateRefused.md).",
};

/// Broken rules.
pub const POLICY_VIOLATIONS: About = About {
    name: "statekeeper_policy_violations_total",
    help: "State events that broke a rule of `enforce`, by what the keeper does about it.",
    labels: &[
        (
            "rule",
            "a key of [`enforce`](OPERATIONS.md#enforcement), or `exempt`: a member sealed an exempt type",
        ),
        ("action", "`report`, `restore`, `redact`, `publish` or `noop`"),
    ],
    worry: "When it rises: the log names room and sender.",
};

/// Restored values.
pub const STATE_RESTORED: About = About {
    name: "statekeeper_state_restored_total",
    help: "Values that were said again over what broke a rule: allowed ones sealed, and what forgeries hid in plain.",
    labels: &[],
    worry: "When it rises often: somebody fights the keeper.",
};

/// Copies in plain.
pub const PLAIN_COPIES: About = About {
    name: "statekeeper_plain_copies_total",
    help: "Copies in plain of sealed state, by what was done or found.",
    labels: &[(
        "what",
        "written: `mirror`, `stub`, `clear`, `publish`; left there and warned of: `stale` (it says something else), \
         `telling` (it says what is sealed); `refused` by the homeserver; `war` (somebody writes over the keeper's \
         copies)",
    )],
    worry: "When `refused` or `war` rises, or when `telling` does in rooms whose names are a secret: \
            see [Copies in plain](OPERATIONS.md#copies-in-plain).",
};

/// Reasons that the homeserver can read.
pub const MEMBERSHIP_REASONS: About = About {
    name: "statekeeper_membership_reasons_total",
    help: "Membership events that gave a reason, where `state.warn_membership_reasons` is set.",
    labels: &[],
    worry: "When people were told not to give any: the homeserver can read them.",
};

/// State that the keeper cannot read.
pub const UNDECRYPTABLE: About = About {
    name: "statekeeper_undecryptable_state_events",
    help: "Current encrypted state events that the keeper itself cannot read.",
    labels: &[],
    worry: "When it is not 0 for long: joiners cannot read that state until a member sets it again. \
            [`StatekeeperUndecryptableState`](runbooks/StatekeeperUndecryptableState.md).",
};

/// Held members.
pub const HOLDS: About = About {
    name: "statekeeper_holds",
    help: "Members about whom an administrator has to decide.",
    labels: &[],
    worry: "When it is not 0: somebody waits for your word, and reads no name until then. \
            [`StatekeeperHoldsWaiting`](runbooks/StatekeeperHoldsWaiting.md).",
};

/// Wars.
pub const WARS: About = About {
    name: "statekeeper_wars",
    help: "Members who went on breaking a room's rules, and whose changes the keeper restores no more.",
    labels: &[],
    worry: "When it is not 0: what they changed last stands until you have seen to it. \
            [`StatekeeperWar`](runbooks/StatekeeperWar.md).",
};

/// What is to be done.
pub const INTENTS: About = About {
    name: "statekeeper_intents",
    help: "What the keeper decided to do and has not finished, by state.",
    labels: &[(
        "state",
        "`due` (to be decided now), `later` (waiting for its time), `sending` (in the outbox)",
    )],
    worry: "When `due` and `sending` grow for a quarter of an hour: more is decided than gets done. \
            [`StatekeeperQueueGrowing`](runbooks/StatekeeperQueueGrowing.md).",
};

/// How late the keeper is.
pub const OLDEST_DUE: About = About {
    name: "statekeeper_oldest_due_seconds",
    help: "How long ago the oldest of what is due fell due: how long a joiner waits; 0 when nothing is.",
    labels: &[],
    worry: "When it is over half a minute: somebody looks at a room without a name. \
            [`StatekeeperJoinersWaiting`](runbooks/StatekeeperJoinersWaiting.md).",
};

/// From a join to its keys.
pub const JOIN_TO_KEY: About = About {
    name: "statekeeper_join_to_key_seconds",
    help: "From a membership event's arrival to the 200 of its last key.",
    labels: &[],
    worry: "When its 95th percentile is over a second: joiners see a room without a name first. \
            [`StatekeeperSlowKeys`](runbooks/StatekeeperSlowKeys.md).",
};

/// Requests to the homeserver.
pub const HOMESERVER_REQUESTS: About = About {
    name: "statekeeper_homeserver_requests_total",
    help: "Requests to the homeserver, by endpoint and status.",
    labels: &[
        (
            "endpoint",
            "the endpoint's name in the specification, such as `keys_claim` or `send_to_device`",
        ),
        ("status", "the HTTP status, or a word such as `timeout` where there was none"),
    ],
    worry: "When `429` rises: the registration does not say `rate_limited: false`. When `timeout` and `5xx` do: \
            look at the homeserver.",
};

/// How long the homeserver takes.
pub const HOMESERVER_REQUEST_SECONDS: About = About {
    name: "statekeeper_homeserver_request_seconds",
    help: "How long the homeserver took to answer, by endpoint; long polls are meant to take long.",
    labels: &[("endpoint", "as in `statekeeper_homeserver_requests_total`")],
    worry: "When it is most of `statekeeper_join_to_key_seconds`: the homeserver is the slow one.",
};

/// Key requests.
pub const KEY_REQUESTS: About = About {
    name: "statekeeper_key_requests_total",
    help: "Key requests that devices sent, by what became of them.",
    labels: &[(
        "outcome",
        "`answered`; `withheld` (told why not, now or before); `repeated` (it was given the key within the \
         cool-down); `duplicate` (the same request again); `cancelled`; `dropped` (the queue is full); `silence` (no \
         business with that key); `malformed`",
    )],
    worry: "When `dropped` rises: somebody floods the keeper, or `requests.queue` is too small.",
};

/// Key requests that wait.
pub const KEY_REQUESTS_QUEUED: About = About {
    name: "statekeeper_key_requests_queued",
    help: "Key requests that wait for a budget, or for the answer that is under way.",
    labels: &[],
    worry: "When it grows for minutes: see [Rate limits](OPERATIONS.md#rate-limits). \
            [`StatekeeperQueueGrowing`](runbooks/StatekeeperQueueGrowing.md).",
};

/// Budgets that were short.
pub const RATE_LIMITED: About = About {
    name: "statekeeper_rate_limited_total",
    help: "Key requests that had to wait or were dropped, by the budget that was short.",
    labels: &[("scope", "`device`, `user`, `room` or `overall`")],
    worry: "When `overall` rises without a flood: the keeper could answer more than it may.",
};

/// Answered key requests.
pub const KEY_REQUEST_SECONDS: About = About {
    name: "statekeeper_key_request_seconds",
    help: "From a key request's arrival to the 200 of its answer.",
    labels: &[],
    worry: "As for `statekeeper_join_to_key_seconds`.",
};

/// One-time keys.
pub const ONE_TIME_KEYS: About = About {
    name: "statekeeper_one_time_keys",
    help: "One-time keys of the keeper's device that the homeserver said it has left; absent until it said so.",
    labels: &[("algorithm", "`signed_curve25519`")],
    worry: "When it stays low: they are drained, or the keeper cannot upload new ones, and devices that want to write \
            to the keeper for the first time share its fallback key. \
            [`StatekeeperOneTimeKeysLow`](runbooks/StatekeeperOneTimeKeysLow.md).",
};

/// Retired sessions.
pub const ROTATIONS: About = About {
    name: "statekeeper_rotations_total",
    help: "State sessions that were retired, by reason.",
    labels: &[("reason", "see [Rotation](OPERATIONS.md#rotation)")],
    worry: "When `age` or `messages` is most of it: `rotation.milliseconds` or `rotation.messages` is small.",
};

/// Sessions.
pub const SESSIONS: About = About {
    name: "statekeeper_sessions",
    help: "State sessions that the keeper made, by whether they may still encrypt.",
    labels: &[("state", "`active`, or `retired`: it never encrypts again")],
    worry: "Never.",
};

/// From a rotation to its keys.
pub const ROTATION_SECONDS: About = About {
    name: "statekeeper_rotation_seconds",
    help: "From a session's retirement to the 200 of the last key of the one that follows, with \
           `rotation.when: at_once`; `rotation.settle` included.",
    labels: &[],
    worry: "When it is far over `rotation.settle`.",
};

/// Spaces to follow.
pub const SPACES: About = About {
    name: "statekeeper_spaces",
    help: "Spaces to follow, by status.",
    labels: &[("status", "see [Spaces](OPERATIONS.md#spaces)")],
    worry: "When one is not `followed` for long.",
};

/// Rooms beneath them.
pub const SPACE_ROOMS: About = About {
    name: "statekeeper_space_rooms",
    help: "Rooms beneath followed spaces, by status.",
    labels: &[("status", "see [Spaces](OPERATIONS.md#spaces)")],
    worry: "When any is `no_power` or `cannot_join`: `statekeeper spaces` says what to change. \
            [`StatekeeperSpaceBlocked`](runbooks/StatekeeperSpaceBlocked.md).",
};

/// Keys before a join.
pub const SPACE_PROVISIONED: About = About {
    name: "statekeeper_space_provisioned_total",
    help: "Room keys for people who may join a room and have not, by what became of them.",
    labels: &[(
        "outcome",
        "`given`; `unreachable`, which is tried again; `refused` by the homeserver",
    )],
    worry: "When `refused` rises.",
};

/// History keys for invitees.
pub const BUNDLES_SENT: About = About {
    name: "statekeeper_bundles_sent_total",
    help: "Devices of people whom the keeper invited and to which it sent the keys of the room's history.",
    labels: &[],
    worry: "When it stands still while people are invited: their devices are not cross-signed, or the room's \
            history is not shared.",
};

/// People without them.
pub const SPACE_BACKLOG: About = About {
    name: "statekeeper_space_backlog",
    help: "People who may join a room and have still to be looked at; somebody counts once for \
           each room.",
    labels: &[],
    worry: "When it does not fall for hours: `spaces[].per_second` is small.",
};

/// The process's own numbers, in the names that all of Prometheus' clients use.
#[cfg(target_os = "linux")]
pub const PROCESS: [Entry; 7] = [
    process("process_cpu_seconds_total", Kind::Counter, "Processor time that was spent.", ""),
    process("process_open_fds", Kind::Gauge, "Open file descriptors.", ""),
    process(
        "process_max_fds",
        Kind::Gauge,
        "How many file descriptors may be open.",
        "When `process_open_fds` comes near it.",
    ),
    process(
        "process_resident_memory_bytes",
        Kind::Gauge,
        "Memory in use.",
        "When it grows for days without an end.",
    ),
    process("process_virtual_memory_bytes", Kind::Gauge, "Memory that is mapped.", ""),
    process(
        "process_start_time_seconds",
        Kind::Gauge,
        "When the process started, in seconds since 1970.",
        "When it changes and nobody restarted the keeper. \
         [`StatekeeperRestarting`](runbooks/StatekeeperRestarting.md).",
    ),
    process("process_threads", Kind::Gauge, "Threads of the process.", ""),
];

#[cfg(target_os = "linux")]
const fn process(name: &'static str, kind: Kind, help: &'static str, worry: &'static str) -> Entry {
    let worry = if worry.is_empty() { "Never." } else { worry };
    Entry { about: About { name, help, labels: &[], worry }, kind }
}
