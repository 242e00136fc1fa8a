//! The command line, one file a command.
//!
//! A command ends with 0 when all went well, with 1 when something is to be mended (each mistake on
//! one line of standard error), and with 2 when it was not called properly. `doctor` has codes of its own.

mod beside;
mod block;
mod check;
mod confirm_identity;
mod doctor;
mod export;
mod generate;
mod holds;
mod import;
mod ledger;
mod logging;
mod making;
mod mend;
mod output;
mod pages;
mod passphrase;
mod policy;
mod progress;
mod registration;
mod rooms;
mod running;
mod serve;
mod spaces;
mod status;
mod table;
mod upgrade;
mod when;
mod whole_file;
mod why;
mod word;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

/// Gives the keys of encrypted room state to every device that is entitled to them.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a registration with fresh secrets, for the homeserver and for Statekeeper
    Registration(registration::Arguments),
    /// Look for every mistake in the configuration and the registration
    Check(ConfigFile),
    /// Look at everything that keeps people from their keys, and say what mends it
    Doctor(doctor::Arguments),
    /// Run the keeper
    Serve(ConfigFile),
    /// List the members who wait for an administrator's word
    Holds(holds::Arguments),
    /// Say who was given which key, when and why
    Ledger(ledger::Arguments),
    /// Let a member have a room's keys, or all who are joined
    Approve(word::Approval),
    /// Refuse a user a room's keys
    Deny(word::Denial),
    /// Refuse a user, or one device, the keys of all rooms
    Block(block::Arguments),
    /// Take a block back
    Unblock(block::Arguments),
    /// Accept that a user's cross-signing identity has changed
    ConfirmIdentity(confirm_identity::Arguments),
    /// Retire the sessions of a room's state: what is sealed next is sealed under new ones
    Rotate(mend::Room),
    /// Seal a room's state once more, for clients that missed its keys
    Refresh(mend::Room),
    /// Give a member's entitled devices a room's keys once more
    Share(mend::Share),
    /// Restore again what a user breaks who had gone on breaking a room's rules
    Resume(mend::Resume),
    /// Decide and report everything and send nothing, or take that back
    Noop(mend::Noop),
    /// Say how the running keeper fares
    Status(status::Arguments),
    /// List the rooms that the keeper is in
    Rooms(rooms::Rooms),
    /// Say what stands in a room, or make one
    Room(rooms::Room),
    /// List the spaces that the keeper follows, and what lies beneath them
    Spaces(spaces::Arguments),
    /// Say why a user has or lacks a room's keys, device by device
    Why(why::Arguments),
    /// Look into the policies that differ from room to room
    Policy(policy::Arguments),
    /// Write a backup of the store
    Export(export::Arguments),
    /// Put back what was exported
    Import(import::Arguments),
    /// Print a shell's completions
    Completions(pages::Completions),
    /// Write the manual pages
    Man(pages::Man),
    /// Print the configuration's JSON schema
    #[command(hide = true)]
    ConfigSchema,
    /// Print a configuration with every key, its default and its meaning
    #[command(hide = true)]
    ConfigSample,
    /// Print the configuration's reference
    #[command(hide = true)]
    ConfigReference,
    /// Print what each metric means
    #[command(hide = true)]
    MetricsReference,
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Does what this process's arguments say, and gives its exit code.
pub fn run() -> ExitCode {
    let done = match CommandLine::parse().command {
        Command::Doctor(arguments) => {
            return doctor::run(&arguments).unwrap_or_else(|error| {
                output::complain(&error);
                ExitCode::from(2)
            });
        }
        Command::Registration(arguments) => registration::run(&arguments),
        Command::Check(file) => check::run(&file.config),
        Command::Serve(file) => serve::run(&file.config),
        Command::Holds(arguments) => holds::run(&arguments),
        Command::Ledger(arguments) => ledger::run(&arguments),
        Command::Approve(arguments) => word::approve(&arguments),
        Command::Deny(arguments) => word::deny(&arguments),
        Command::Block(arguments) => block::block(&arguments),
        Command::Unblock(arguments) => block::unblock(&arguments),
        Command::ConfirmIdentity(arguments) => confirm_identity::run(&arguments),
        Command::Rotate(arguments) => mend::rotate(&arguments),
        Command::Refresh(arguments) => mend::refresh(&arguments),
        Command::Share(arguments) => mend::share(&arguments),
        Command::Resume(arguments) => mend::resume(&arguments),
        Command::Noop(arguments) => mend::noop(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Rooms(arguments) => rooms::rooms(&arguments),
        Command::Room(arguments) => rooms::room(&arguments),
        Command::Spaces(arguments) => spaces::run(&arguments),
        Command::Why(arguments) => why::run(&arguments),
        Command::Policy(arguments) => policy::run(&arguments),
        Command::Export(arguments) => export::run(&arguments),
        Command::Import(arguments) => import::run(&arguments),
        Command::Completions(arguments) => pages::completions(&arguments),
        Command::Man(arguments) => pages::man(&arguments),
        Command::ConfigSchema => generate::schema(),
        Command::ConfigSample => generate::sample(),
        Command::ConfigReference => generate::reference(),
        Command::MetricsReference => generate::metrics(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&error);
            ExitCode::FAILURE
        }
    }
}
