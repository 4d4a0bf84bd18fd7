//! Signals during the work: no output appears.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, process::ExitStatusExt as _},
    process::{Command, Stdio},
};

use crate::{AES, Place, finish, kill, plaintext};

/// More bytes than the program reads ahead and a pipe holds. Once they are written, the program is
/// at work.
const MUCH: usize = 4_000_000;

/// Whether this process ignores a signal, e.g. under `nohup`. The program then ignores it, too.
fn is_ignored(signal: &str) -> bool {
    // POSIX: a shell cannot set a trap for a signal that was ignored when it started.
    let script = format!("trap 'exit 7' {signal}; kill -s {signal} $$; exit 0");
    Command::new("sh").args(["-c", &script]).status().unwrap().code() == Some(0)
}

/// Starts a command, lets it work, and sends it a signal while it waits for more input.
fn interrupted(place: &Place, command: &str, output: &str, input: &[u8], signal: &str) {
    let mut process =
        place.command(&[command, "--wrapping-key", AES, "-o", output]).spawn().unwrap();
    let mut stdin = process.stdin.take().unwrap();
    stdin.write_all(input).unwrap();
    kill(process.id(), signal);
    let done = finish(process);
    drop(stdin);
    let what = format!("{command} -o {output}, {signal}");
    if signal == "KILL" {
        assert_eq!(done.status.signal(), Some(9), "{what}");
    } else {
        let stderr = String::from_utf8(done.stderr).unwrap();
        assert_eq!(
            (done.status.code(), &*stderr),
            (Some(1), "envelope: interrupted: nothing was written\n"),
            "{what}"
        );
    }
}

#[test]
fn no_output_appears_and_an_existing_file_stays() {
    let place = Place::new();
    place.write("older", b"as it was");
    let plaintext = plaintext(MUCH + 100_000);
    let message = place.succeeds(&["encrypt", "--wrapping-key", AES], &plaintext);
    let before = place.files();
    for (command, input) in [("encrypt", &plaintext[..MUCH]), ("decrypt", &message[..MUCH])] {
        for output in ["new", "older"] {
            for signal in ["INT", "TERM", "HUP"].into_iter().filter(|signal| !is_ignored(signal)) {
                interrupted(&place, command, output, input, signal);
                assert_eq!(place.files(), before, "{command} -o {output}, {signal}");
            }
        }
    }
}

/// Nothing can clean up after SIGKILL: the temporary file stays, under a name that differs from the
/// output.
#[test]
fn a_sigkill_leaves_at_most_a_hidden_temporary_file() {
    let place = Place::new();
    place.write("older", b"as it was");
    let plaintext = plaintext(MUCH + 100_000);
    let message = place.succeeds(&["encrypt", "--wrapping-key", AES], &plaintext);
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

/// A file that replaces a private file is private from its first byte.
#[test]
fn an_unfinished_file_is_as_private_as_the_one_it_replaces() {
    let place = Place::new();
    place.write("older", b"as it was");
    fs::set_permissions(place.path("older"), fs::Permissions::from_mode(0o600)).unwrap();
    let mut process =
        place.command(&["encrypt", "--wrapping-key", AES, "-o", "older"]).spawn().unwrap();
    let mut stdin = process.stdin.take().unwrap();
    stdin.write_all(&plaintext(MUCH)).unwrap();
    let unfinished = fs::read_dir(&place.folder).unwrap().map(|entry| entry.unwrap());
    let unfinished: Vec<_> = unfinished
        .filter(|file| file.file_name().to_string_lossy().starts_with(".envelope-"))
        .collect();
    assert_eq!(unfinished.len(), 1);
    assert_eq!(unfinished[0].metadata().unwrap().permissions().mode() & 0o777, 0o600);
    drop(stdin);
    assert!(finish(process).status.success());
}

#[cfg(target_os = "linux")]
#[test]
fn an_ignored_signal_stays_ignored() {
    let place = Place::new();
    let command = place.command(&[]);
    let program = command.get_program().to_str().unwrap();
    let script = format!("trap '' HUP; exec '{program}' encrypt --wrapping-key {AES} -o new");
    let mut shell = Command::new("sh");
    let mut process = shell
        .args(["-c", &script])
        .current_dir(&place.folder)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = process.stdin.take().unwrap();
    stdin.write_all(&plaintext(MUCH)).unwrap();
    kill(process.id(), "HUP");
    drop(stdin);
    assert!(finish(process).status.success());
    assert_eq!(
        place.succeeds(&["decrypt", "--wrapping-key", AES, "-i", "new"], b""),
        plaintext(MUCH)
    );
}

#[test]
fn an_interruption_during_a_pipe_is_reported() {
    let place = Place::new();
    let mut process = place.command(&["encrypt", "--wrapping-key", AES]).spawn().unwrap();
    let mut stdin = process.stdin.take().unwrap();
    stdin.write_all(&plaintext(100_000)).unwrap();
    process.stdout.as_mut().unwrap().read_exact(&mut [0; 20]).unwrap();
    // A shell without job control ignores SIGINT for what it starts in the background.
    kill(process.id(), if is_ignored("INT") { "TERM" } else { "INT" });
    let done = finish(process);
    drop(stdin);
    assert_eq!((done.status.code(), &*done.stderr), (Some(1), &b"envelope: interrupted\n"[..]));
}
