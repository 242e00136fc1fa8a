use super::*;

fn rendered(metrics: &Metrics) -> Vec<String> {
    metrics.render().unwrap().lines().map(ToOwned::to_owned).collect()
}

#[track_caller]
fn assert_shows(metrics: &Metrics, line: &str) {
    let lines = rendered(metrics);
    assert!(lines.iter().any(|shown| shown == line), "no `{line}` in {lines:#?}");
}

#[test]
fn every_metric_of_the_contract_is_shown_under_its_name() {
    let metrics = Metrics::new().unwrap();
    metrics.set_rooms(&BTreeMap::from([("active", 3), ("not_elevated", 1)]));
    metrics.transaction(TransactionOutcome::Duplicate);
    metrics.events_dropped(2);
    metrics.room_keys_shared("join", 7);
    metrics.room_keys_withheld("m.unverified", 1);
    metrics.state_event_sealed("reseal");
    metrics.state_refused("replayed");
    metrics.membership_reason();
    metrics.set_undecryptable_state_events(4);
    metrics.set_holds(6);
    metrics.set_intents(&BTreeMap::from([("pending", 5)]));
    metrics.join_to_key(0.04);
    metrics.homeserver_request("keys_query", "200", 0.006);
    metrics.key_request("answered");
    metrics.set_key_requests_queued(6);
    metrics.rate_limited("room");
    metrics.key_request_answered(0.02);
    metrics.rotations("member_left", 2);
    metrics.set_sessions(&BTreeMap::from([("active", 3), ("retired", 1)]));
    metrics.rotation_done(5.5);
    metrics.set_missing(&["homeserver"]);
    metrics.set_one_time_keys(&BTreeMap::from([("signed_curve25519", 49)]));
    metrics.set_oldest_due(2.5);

    let version = env!("CARGO_PKG_VERSION");
    for line in [
        &format!("statekeeper_build_info{{version=\"{version}\"}} 1"),
        "statekeeper_rooms{status=\"active\"} 3",
        "statekeeper_rooms{status=\"not_elevated\"} 1",
        "statekeeper_transactions_total{outcome=\"duplicate\"} 1",
        "statekeeper_events_dropped_total 2",
        "statekeeper_room_keys_shared_total{reason=\"join\"} 7",
        "statekeeper_room_keys_withheld_total{code=\"m.unverified\"} 1",
        "statekeeper_state_events_sealed_total{cause=\"reseal\"} 1",
        "statekeeper_state_refused_total{rule=\"replayed\"} 1",
        "statekeeper_membership_reasons_total 1",
        "statekeeper_undecryptable_state_events 4",
        "statekeeper_holds 6",
        "statekeeper_intents{state=\"pending\"} 5",
        "statekeeper_join_to_key_seconds_bucket{le=\"0.05\"} 1",
        "statekeeper_join_to_key_seconds_bucket{le=\"0.035\"} 0",
        "statekeeper_homeserver_requests_total{endpoint=\"keys_query\",status=\"200\"} 1",
        "statekeeper_homeserver_request_seconds_count{endpoint=\"keys_query\"} 1",
        "statekeeper_key_requests_total{outcome=\"answered\"} 1",
        "statekeeper_key_requests_queued 6",
        "statekeeper_rate_limited_total{scope=\"room\"} 1",
        "statekeeper_key_request_seconds_bucket{le=\"0.02\"} 1",
        "statekeeper_rotations_total{reason=\"member_left\"} 2",
        "statekeeper_sessions{state=\"retired\"} 1",
        "statekeeper_rotation_seconds_bucket{le=\"10\"} 1",
        "statekeeper_missing{part=\"homeserver\"} 1",
        "statekeeper_one_time_keys{algorithm=\"signed_curve25519\"} 49",
        "statekeeper_oldest_due_seconds 2.5",
    ] {
        assert_shows(&metrics, line);
    }
}

#[test]
fn every_transaction_outcome_is_shown_before_it_first_happens() {
    let metrics = Metrics::new().unwrap();
    for outcome in ["accepted", "duplicate", "unauthorized", "malformed", "too_large", "failed"] {
        assert_shows(
            &metrics,
            &format!("statekeeper_transactions_total{{outcome=\"{outcome}\"}} 0"),
        );
    }
}

#[test]
fn a_status_that_no_room_has_any_more_falls_to_zero() {
    let metrics = Metrics::new().unwrap();
    metrics.set_rooms(&BTreeMap::from([("not_elevated", 1)]));
    metrics.set_rooms(&BTreeMap::from([("active", 1)]));
    assert_shows(&metrics, "statekeeper_rooms{status=\"not_elevated\"} 0");
    assert_shows(&metrics, "statekeeper_rooms{status=\"active\"} 1");
}

#[cfg(target_os = "linux")]
#[test]
fn the_resident_memory_of_the_process_is_shown() {
    let metrics = Metrics::new().unwrap();
    let resident = rendered(&metrics)
        .iter()
        .find_map(|line| line.strip_prefix("process_resident_memory_bytes "))
        .map(|bytes| bytes.parse::<f64>().unwrap());
    assert!(resident.is_some_and(|bytes| bytes > 0.0), "{resident:?}");
}

#[test]
fn two_keepers_in_one_process_do_not_share_their_numbers() {
    let (one, other) = (Metrics::new().unwrap(), Metrics::new().unwrap());
    one.set_undecryptable_state_events(9);
    assert_shows(&other, "statekeeper_undecryptable_state_events 0");
}

#[test]
fn every_metric_says_what_it_means_and_when_to_worry() {
    let metrics = Metrics::new().unwrap();
    let described: BTreeMap<_, _> =
        metrics.entries().iter().map(|entry| (entry.about.name, entry)).collect();
    assert_eq!(described.len(), metrics.entries().len(), "one entry a metric");
    for line in rendered(&metrics) {
        let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' '))
        else {
            continue;
        };
        assert_eq!(described.get(name).map(|entry| entry.kind.as_str()), Some(kind), "{name}");
    }
    for (name, entry) in described {
        assert!(entry.about.help.ends_with('.') && entry.about.worry.ends_with('.'), "{name}");
        assert!(entry.about.labels.iter().all(|(_, values)| !values.is_empty()), "{name}");
    }
}
