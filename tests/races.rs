//! The keeper against a simulated homeserver: races, hostile input, kills.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod simulated;

mod races {
    //! One file a subject.
    mod askers_themselves;
    mod asking;
    mod audience;
    mod backup;
    mod carrying;
    mod copies;
    mod dashboard;
    mod doctor;
    mod enforcing;
    mod fetching;
    mod flood;
    mod gone_back;
    mod homeserver_itself;
    mod in_plain;
    mod inviting;
    mod joins;
    mod journal;
    mod laundering;
    mod letting_go;
    mod lost_device;
    mod making;
    mod monitoring;
    mod operator;
    mod pace;
    mod patience;
    mod people;
    mod pictures;
    mod plain;
    mod policies;
    mod previews;
    mod refusing;
    mod resting;
    mod rotation;
    mod sabotage;
    mod service_manager;
    mod settings;
    mod spaces;
    mod stage;
    mod storm;
    mod successors;
    mod transactions;
    mod unreadable;
    mod upgrading;
    mod weather;
}
