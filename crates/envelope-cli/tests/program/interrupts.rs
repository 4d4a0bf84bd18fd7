//! Signals in the middle of the work: no output appears.

use std::{
    io::{Read as _, Write as _},
    os::unix::process::ExitStatusExt as _,
    process::{Child, Command},
};

use crate::{AES, Place, plaintext};

/// More than the program reads ahead and a pipe holds: once it was taken, the work is under way.
const MUCH: usize = 4_000_000;

fn kill(process: &Child, signal: &str) {
    let sent = Command::new("sh").args(["-c", &format!("kill -s {signal} {}", process.id())]).status().unwrap();
    assert!(sent.success());
}

/// Starts a command, lets it work, and sends it a signal while it waits for more to come.
fn interrupted(place: &Place, command: &str, output: &str, input: &[u8], signal: &str) {
    let mut process = place.command(&[command, "--wrapping-key", AES, "-o", output]).spawn().unwrap();
    let mut stdin = process.stdin.take().unwrap();
    stdin.write_all(input).unwrap();
    kill(&process, signal);
    let done = process.wait_with_output().unwrap();
    drop(stdin);
    let what = format!("{command} -o {output}, {signal}");
    if signal == "KILL" {
        assert_eq!(done.status.signal(), Some(9), "{what}");
    } else {
        let said = String::from_utf8(done.stderr).unwrap();
        assert_eq!((done.status.code(), &*said), (Some(1), "envelope: interrupted: nothing was written\n"), "{what}");
    }
}

#[test]
fn no_output_appears_and_an_older_one_stays() {
    let place = Place::new();
    place.write("older", b"as it was");
    let plaintext = plaintext(MUCH + 100_000);
    let message = place.does(&["encrypt", "--wrapping-key", AES], &plaintext);
    let before = place.files();
    for (command, input) in [("encrypt", &plaintext[..MUCH]), ("decrypt", &message[..MUCH])] {
        for output in ["new", "older"] {
            for signal in ["INT", "TERM", "HUP"] {
                interrupted(&place, command, output, input, signal);
                assert_eq!(place.files(), before, "{command} -o {output}, {signal}");
            }
        }
    }
}

/// A SIGKILL leaves nobody to tidy up: the temporary file stays, under a name that nobody takes for the output.
#[test]
fn a_sigkill_leaves_at_most_a_hidden_temporary_file() {
    let place = Place::new();
    place.write("older", b"as it was");
    let plaintext = plaintext(MUCH + 100_000);
    let message = place.does(&["encrypt", "--wrapping-key", AES], &plaintext);
    let mut before = place.files();
    for (command, input) in [("encrypt", &plaintext[..MUCH]), ("decrypt", &message[..MUCH])] {
        for output in ["new", "older"] {
            interrupted(&place, command, output, input, "KILL");
        }
    }
    let mut after = place.files();
    after.retain(|(name, _)| !name.starts_with(".envelope-"));
    before.sort();
    assert_eq!(after, before);
}

#[test]
fn a_pipe_is_told_of_the_interruption() {
    let place = Place::new();
    let mut process = place.command(&["encrypt", "--wrapping-key", AES]).spawn().unwrap();
    let mut stdin = process.stdin.take().unwrap();
    stdin.write_all(&plaintext(100_000)).unwrap();
    process.stdout.as_mut().unwrap().read_exact(&mut [0; 20]).unwrap();
    kill(&process, "INT");
    let done = process.wait_with_output().unwrap();
    drop(stdin);
    assert_eq!((done.status.code(), &*done.stderr), (Some(1), &b"envelope: interrupted\n"[..]));
}
