//! The real [`Spawn`](os_port::Spawn): runs programs to their end.

use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use os_port::{ERRORS_MAX_BYTES, Ended, Launch, Spawn};

use crate::process::{Process, wait_for};
use crate::standby::{NO_PROGRAM, Standby, Streams};

/// Starts programs on this system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemSpawn;

impl Spawn for SystemSpawn {
    fn run(&self, launch: &Launch, limit: Duration) -> io::Result<Ended> {
        let deadline = Instant::now() + limit;
        // The child cannot say why it could not become the program.
        File::open(launch.program())?;
        let null = OpenOptions::new()
            .read(true)
            .write(true)
            .open(Path::new("/dev/null"))?;
        let (errors, end) = io::pipe()?;
        let standby = Standby::start(
            launch,
            Streams {
                input: null.as_fd(),
                output: null.as_fd(),
                errors: end.as_fd(),
            },
        )?;
        drop(end);
        run_until(deadline, launch, errors, &standby.let_go())
    }
}

/// Waits for the end of a process, and keeps the beginning of what it says meanwhile: one that says much would wait for
/// its reader.
fn run_until(
    deadline: Instant,
    launch: &Launch,
    mut errors: PipeReader,
    process: &Process,
) -> io::Result<Ended> {
    let mut said = Vec::new();
    let mut is_open = true;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let [has_ended, has_said] = wait_for([process.as_fd(), errors.as_fd()], is_open, left)?;
        if has_said {
            is_open = read_some(&mut errors, &mut said)?;
        } else if has_ended {
            // Nothing is left to be read, unless a child of its own goes on.
            break;
        } else if left.is_zero() {
            process.kill()?;
            process.wait()?;
            let what = format!("`{}` ran into its time limit and was killed", launch.line());
            return Err(io::Error::new(io::ErrorKind::TimedOut, what));
        }
    }
    let code = process.wait()?;
    if code == Some(NO_PROGRAM) && said.is_empty() {
        let what = format!("`{}` could not be started", launch.line());
        return Err(io::Error::other(what));
    }
    Ok(Ended { code, errors: said })
}

/// Reads a piece, and keeps what there is room for. Whether there may be more.
fn read_some(errors: &mut PipeReader, said: &mut Vec<u8>) -> io::Result<bool> {
    let mut piece = [0; 4096];
    let count = errors.read(&mut piece)?;
    let room = ERRORS_MAX_BYTES.saturating_sub(said.len()).min(count);
    said.extend_from_slice(piece.get(..room).unwrap_or_default());
    Ok(count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use os_port::run_to_success;

    const LIMIT: Duration = Duration::from_secs(60);

    fn shell(script: &str) -> Launch {
        Launch::new(Path::new("/bin/sh"))
            .unwrap()
            .args(["-c", script])
    }

    #[test]
    fn a_program_is_run_to_its_end() {
        let ended = SystemSpawn
            .run(&shell("echo why >&2; exit 3"), LIMIT)
            .unwrap();
        assert_eq!(
            ended,
            Ended {
                code: Some(3),
                errors: b"why\n".to_vec()
            }
        );
        let ended = SystemSpawn.run(&shell("kill -KILL $$"), LIMIT).unwrap();
        assert_eq!(ended.code, None);
        run_to_success(&SystemSpawn, &shell("exit 0"), LIMIT).unwrap();
        let failed = run_to_success(&SystemSpawn, &shell("echo why >&2; exit 3"), LIMIT);
        assert!(failed.unwrap_err().to_string().contains("why"));
    }

    #[test]
    fn one_that_says_much_ends_all_the_same() {
        let script = "head -c 1000000 /dev/zero >&2";
        let ended = SystemSpawn.run(&shell(script), LIMIT).unwrap();
        assert_eq!(
            (ended.code, ended.errors.len()),
            (Some(0), ERRORS_MAX_BYTES)
        );
    }

    #[test]
    fn one_that_takes_too_long_is_killed() {
        let start = Instant::now();
        let late = SystemSpawn.run(&shell("exec sleep 1000"), Duration::from_millis(20));
        assert_eq!(late.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(start.elapsed() < LIMIT);
    }

    #[test]
    fn one_whose_child_goes_on_is_not_waited_for() {
        let ended = SystemSpawn
            .run(&shell("sleep 1000 & exit 0"), LIMIT)
            .unwrap();
        assert_eq!(ended.code, Some(0));
    }

    #[test]
    fn one_that_cannot_be_started_is_told() {
        let missing = Launch::new(Path::new("/no/such/program")).unwrap();
        assert_eq!(
            SystemSpawn.run(&missing, LIMIT).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        let no_program = Launch::new(Path::new("/etc/passwd")).unwrap();
        assert!(SystemSpawn.run(&no_program, LIMIT).is_err());
    }
}
