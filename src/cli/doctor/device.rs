//! The keeper's device: what the running keeper finds of it, or what can be seen from outside.

use super::report::Finding;
use crate::{
    admin::Trouble,
    crypto::Published,
    homeserver::Homeserver,
    keeper::{
        clock::now_ms,
        heartbeat::FEW_KEYS,
        operator::{Examination, Status},
    },
};

/// How old the last answer of the long poll may be, in milliseconds.
const OLD: i64 = 120_000;

/// What a running keeper says of itself.
pub(super) fn running(status: &Status) -> Vec<Finding> {
    let text = format!("{} runs, version {}", status.user_id, status.version);
    let mut findings = vec![Finding::fine("keeper", text)];
    if !status.ready {
        findings.push(Finding::trouble(
            "ready",
            format!("the keeper is not ready; it lacks: {}", status.missing.join(", ")),
            "see what is told of the homeserver and of the device",
        ));
    }
    if status.noop || status.noop_configured {
        findings.push(Finding::warning(
            "noop",
            "`noop` is on, in all rooms or in some: nothing is sent there",
            "`statekeeper noop off`, or `noop: false` in the configuration",
        ));
    }
    findings
}

/// What it found of its device.
pub(super) fn examined(found: &Examination) -> Vec<Finding> {
    let mut findings = Vec::new();
    match &found.shown {
        Ok(shown) => {
            findings.push(device(found, shown.device));
            findings.push(identity(shown.identity, shown.signed));
        }
        Err(error) => {
            let text = format!("what the homeserver shows of it is not known: {error}");
            findings.push(Finding::skipped("device", text));
        }
    }
    findings.push(one_time_keys(found));
    findings.push(match &found.round_trip_ms {
        Ok(took) => Finding::fine("to_device", format!("a message to itself took {took} ms")),
        Err(error) => Finding::trouble(
            "to_device",
            format!("a message of the device to itself was lost: {error}"),
            "see in the log what `/sync` says; keys for the keeper are lost the same way",
        ),
    });
    findings.push(last_sync(found.last_sync_at));
    findings
}

fn device(found: &Examination, shown: Published) -> Finding {
    let id = &found.device_id;
    match shown {
        Published::Same => Finding::fine("device", format!("{id} is published")),
        Published::Missing => Finding::trouble(
            "device",
            format!("the homeserver does not have the keeper's device {id} any more"),
            "restart the keeper: it makes the device again, with the same keys; and see who deleted it",
        ),
        Published::Other => Finding::trouble(
            "device",
            format!("the homeserver shows other keys for the keeper's device {id} than it has"),
            Trouble::OtherDevice.mend(),
        ),
    }
}

fn identity(shown: Published, signed: bool) -> Finding {
    match (shown, signed) {
        (Published::Same, true) => {
            Finding::fine("cross_signing", "the device is signed by the keeper's identity")
        }
        (Published::Same, false) => Finding::trouble(
            "cross_signing",
            "the homeserver shows no signature of the keeper's identity on its device",
            Trouble::Identity.mend(),
        ),
        (Published::Missing, _) => Finding::trouble(
            "cross_signing",
            "the homeserver has no cross-signing identity of the keeper any more",
            Trouble::Identity.mend(),
        ),
        (Published::Other, _) => Finding::trouble(
            "cross_signing",
            "the keeper's cross-signing identity was reset by somebody else: clients do not trust its device",
            Trouble::Identity.mend(),
        ),
    }
}

fn one_time_keys(found: &Examination) -> Finding {
    let fallback = match found.fallback_key {
        Some(true) => "and a fallback key",
        Some(false) => "and no unused fallback key",
        None => "and perhaps a fallback key",
    };
    match found.one_time_keys {
        None => Finding::skipped("one_time_keys", "the homeserver has not told how many there are"),
        Some(count @ 0..FEW_KEYS) => Finding::warning(
            "one_time_keys",
            format!("the homeserver has {count} one-time keys of the keeper, {fallback}"),
            format!(
                "the keeper uploads new ones by itself. If they stay few: {}",
                Trouble::OneTimeKeys.mend()
            ),
        ),
        Some(count) => {
            Finding::fine("one_time_keys", format!("the homeserver has {count}, {fallback}"))
        }
    }
}

fn last_sync(at: Option<i64>) -> Finding {
    let age = at.map(|at| now_ms().saturating_sub(at));
    match age {
        Some(age) if age < OLD => {
            Finding::fine("sync", format!("the last answer to `/sync` is {} s old", age / 1000))
        }
        Some(age) => Finding::trouble(
            "sync",
            format!("the last answer to `/sync` is {} s old", age / 1000),
            "see in the log what the homeserver says to `/sync`",
        ),
        None => Finding::trouble(
            "sync",
            "there was no answer to `/sync` since the start",
            "see in the log what the homeserver says to `/sync`",
        ),
    }
}

/// What can be seen of the device of a keeper that does not run.
pub(super) async fn from_outside(homeserver: &Homeserver, device_id: Option<&str>) -> Vec<Finding> {
    let text =
        "no keeper runs: one-time keys, cross-signing and messages to itself are for it to look at";
    let skipped = Finding::skipped("to_device", text);
    let Some(id) = device_id else {
        return vec![Finding::skipped("device", "the keeper has not made a device yet"), skipped];
    };
    let device = match homeserver.get_device(id.into()).await {
        Ok(Some(_)) => Finding::fine("device", format!("the homeserver has the device {id}")),
        Ok(None) => Finding::trouble(
            "device",
            format!("the homeserver does not have the keeper's device {id} any more"),
            "start the keeper: it makes the device again, with the same keys; and see who deleted it",
        ),
        Err(error) => Finding::skipped("device", error.to_string()),
    };
    vec![device, skipped]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cli::doctor::report::Level, crypto::Shown};

    fn sound() -> Examination {
        Examination {
            device_id: "KEEPER".into(),
            shown: Ok(Shown { device: Published::Same, identity: Published::Same, signed: true }),
            last_sync_at: Some(now_ms()),
            one_time_keys: Some(50),
            fallback_key: Some(true),
            round_trip_ms: Ok(12),
        }
    }

    fn worst(found: &Examination) -> (&'static str, Level) {
        let findings = examined(found);
        let worst = findings.iter().max_by_key(|finding| finding.level).unwrap();
        assert_eq!(worst.level == Level::Fine, worst.fix.is_none());
        (worst.check, worst.level)
    }

    #[test]
    fn each_kind_of_damage_is_named_by_its_own_check() {
        assert_eq!(worst(&sound()).1, Level::Fine);
        let shown = |device, identity, signed| Examination {
            shown: Ok(Shown { device, identity, signed }),
            ..sound()
        };
        use Published::{Missing, Other, Same};
        for (found, check) in [
            (shown(Missing, Same, false), "device"),
            (shown(Other, Same, true), "device"),
            (shown(Same, Other, true), "cross_signing"),
            (shown(Same, Missing, true), "cross_signing"),
            (shown(Same, Same, false), "cross_signing"),
            (Examination { round_trip_ms: Err("lost".to_owned()), ..sound() }, "to_device"),
            (Examination { last_sync_at: None, ..sound() }, "sync"),
            (Examination { last_sync_at: Some(1), ..sound() }, "sync"),
        ] {
            let findings = examined(&found);
            let troubled = findings.iter().find(|finding| finding.level == Level::Trouble).unwrap();
            assert_eq!(troubled.check, check, "{findings:?}");
        }
        let drained = Examination { one_time_keys: Some(0), ..sound() };
        assert_eq!(worst(&drained), ("one_time_keys", Level::Warning));
    }
}
