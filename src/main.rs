//! The `statekeeper` command.

fn main() -> std::process::ExitCode {
    statekeeper::cli::run()
}
