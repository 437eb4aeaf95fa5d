//! Servers of others (Redis, databases) as child processes that die with the test process, however it dies.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// A shell stands between: it reads from a pipe that only this process holds open. Whether the process ends, panics
/// or is killed, the pipe closes; then the shell ends the server.
const WATCHDOG: &str = r#"
signal=$1 log=$2; shift 2
mark=${log%/*}/running.$$
: >"$mark"
"$@" >>"$log" 2>&1 </dev/null & pid=$!
echo "$pid"
read -r _
kill -CONT "$pid" 2>/dev/null
kill -"$signal" "$pid" 2>/dev/null
wait "$pid" 2>/dev/null
rm -f -- "$mark"
"#;

/// The same for a directory: removed when the pipe closes and the servers in it have ended. A browser outlives its driver:
/// it is known by its profile.
const JANITOR: &str = r#"
directory=$1 tries=0
read -r _
while [ "$tries" -lt 200 ] && ls "$directory"/running.* >/dev/null 2>&1; do
    tries=$((tries + 1))
    sleep 0.05
done
if [ -d "$directory/profile" ]; then
    for process in /proc/[0-9]*; do
        if tr '\0' ' ' <"$process/cmdline" 2>/dev/null | grep -qF -e "--user-data-dir=$directory/"; then
            kill -KILL "${process#/proc/}" 2>/dev/null
        fi
    done
fi
rm -rf -- "$directory"
"#;

/// A running server; dropped, it is gone.
pub struct Server {
    watchdog: Child,
    pid: u32,
    log: PathBuf,
}

/// How to start one.
pub struct Launch<'a> {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Whether root must become somebody else first: that user.
    pub user: Option<&'a str>,
    pub log: PathBuf,
    /// `KILL`, `QUIT`…: what ends it at once.
    pub signal: &'a str,
}

impl Server {
    pub fn launch(launch: &Launch<'_>) -> Self {
        let mut watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "watchdog", launch.signal])
            .arg(&launch.log)
            .args(as_user(launch.user, &launch.command))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(watchdog.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let pid = line.trim().parse().unwrap_or_else(|it| panic!("no process id ({it}): {line:?}"));
        Self { watchdog, pid, log: launch.log.clone() }
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub fn signal(&self, signal: &str) {
        send_signal(self.pid, signal);
    }

    /// `Err` with its log once it has ended by itself.
    pub fn alive(&self) -> Result<(), String> {
        match Path::new(&format!("/proc/{}/stat", self.pid)).exists() && !self.is_zombie() {
            true => Ok(()),
            false => Err(self.log()),
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The shell has not waited for it yet.
    fn is_zombie(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|it| it.trim_start().starts_with('Z'))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        self.watchdog.wait().map(drop).unwrap_or_default();
    }
}

/// A directory that a server's user may write. A static is never dropped: a janitor removes it in any case.
pub struct Directory {
    path: PathBuf,
    janitor: Child,
}

impl Directory {
    pub fn for_user(user: Option<&str>, prefix: &str) -> Self {
        let path = tempfile::Builder::new().prefix(prefix).tempdir().unwrap().keep();
        let janitor = Command::new("sh")
            .args(["-c", JANITOR, "janitor"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        if let Some(user) = user {
            run(None, &["chown".into(), user.into(), path.display().to_string()]);
        }
        Self { path, janitor }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(self.janitor.stdin.take());
        self.janitor.wait().map(drop).unwrap_or_default();
    }
}

/// Stops a process for a while and lets it go on, whatever happens in between.
pub struct Stopped<'a>(&'a Server);

impl<'a> Stopped<'a> {
    pub fn new(server: &'a Server) -> Self {
        server.signal("STOP");
        Self(server)
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.signal("CONT");
    }
}

/// `HUP`, `TERM`, …, by the shell's own `kill`: no crate is needed for it.
pub fn send_signal(pid: u32, signal: &str) {
    let status = Command::new("sh").args(["-c", &format!("kill -{signal} {pid}")]).status().unwrap();
    assert!(status.success(), "kill -{signal} {pid}");
}

/// Runs a tool to its end, as another user where root is not welcome.
pub fn run(user: Option<&str>, command: &[String]) -> Output {
    let line = as_user(user, command);
    let output = Command::new(&line[0]).args(&line[1..]).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|it| panic!("{}: {it}", line[0]));
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// `setpriv` replaces itself, so that the process id is the server's own; `runuser` would stay in between.
fn as_user(user: Option<&str>, command: &[String]) -> Vec<String> {
    let mut line = Vec::new();
    if let Some(user) = user {
        let group =
            String::from_utf8(Command::new("id").args(["-g", user]).output().unwrap().stdout).unwrap();
        line.extend(
            ["setpriv", "--reuid", user, "--regid", group.trim(), "--clear-groups"].map(str::to_owned),
        );
    }
    line.extend_from_slice(command);
    line
}

/// Whom root becomes for servers that refuse it: the package's own user, else `nobody`; others stay who they are.
pub fn unprivileged(preferred: &'static str) -> Option<&'static str> {
    let id = |arguments: &[&str]| Command::new("id").args(arguments).output().unwrap();
    if id(&["-u"]).stdout != b"0\n" {
        return None;
    }
    Some(if id(&["-u", preferred]).status.success() { preferred } else { "nobody" })
}

/// The first of these programs that exists, in `PATH` and in the places where distributions hide servers.
pub fn program(names: &[&str], hint: &str) -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    places.extend(["/usr/sbin", "/usr/local/sbin", "/usr/local/bin"].map(PathBuf::from));
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|it| it.path().join("bin"))
        .collect();
    versions.sort();
    // The distribution's own directory first: there, programs of one version stand together.
    places.splice(0..0, versions.into_iter().rev());
    for name in names {
        for place in &places {
            let candidate = place.join(name);
            if candidate.is_file() {
                return candidate.display().to_string();
            }
        }
    }
    panic!("{} is not installed: run `scripts/setup --test`, or install {hint}", names[0])
}
