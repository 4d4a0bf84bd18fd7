//! The `envelope` program: see `envelope --help`.

#![forbid(unsafe_code)]

mod arguments;
mod decrypt;
mod encrypt;
mod failure;
mod fields;
mod flow;
mod input;
mod inspect;
mod json;
mod keyring;
mod keys;
mod kms;
mod options;
mod output;
mod progress;
mod store;
mod wrapping_key;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use self::{
    arguments::{Arguments, Command},
    failure::Failure,
    output::print,
};

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return failure::unparsed(&error),
    };
    let result = output::remove_on_interrupt().and_then(|()| run(arguments.command));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Encrypt(arguments) => encrypt::run(&arguments),
        Command::Decrypt(arguments) => decrypt::run(&arguments),
        Command::Inspect(arguments) => inspect::run(&arguments),
        Command::Keys(command) => keys::run(&command),
        Command::Completions { shell } => {
            let mut script = vec![];
            clap_complete::generate(shell, &mut Arguments::command(), "envelope", &mut script);
            print(&script)
        }
        Command::Man { command } => {
            let mut page = vec![];
            let described = arguments::described(&command)?;
            clap_mangen::Man::new(described)
                .render(&mut page)
                .map_err(|error| Failure::output(&error))?;
            print(&page)
        }
    }
}
