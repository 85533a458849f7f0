//! `seawall user`

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use pg_wire::Secret;
use pg_wire::server::Verifier;
use pg_wire::server::users;

use crate::cli::{UserAction, UserArgs};
use crate::{Failure, terminal};

/// A password or a verifier is shorter.
const MAX_SECRET_BYTES: u64 = 4096;

pub(crate) fn run(args: &UserArgs) -> Result<(), Failure> {
    match &args.action {
        UserAction::Add { name, file } => add(&file.path(), name),
        UserAction::Remove { name, file } => remove(&file.path(), name),
        UserAction::List { file } => {
            let text = read(&file.path())?;
            for name in users::names(&text) {
                writeln!(io::stdout(), "{name}")
                    .map_err(|error| Failure::failed(format!("can't write the answer: {error}")))?;
            }
            Ok(())
        }
    }
}

fn add(path: &Path, name: &str) -> Result<(), Failure> {
    if !users::is_user_name(name) {
        return Err(Failure::usage(format!("\"{name}\" can't be a user's name")));
    }
    check(path, &read(path)?)?;
    let secret = secret()?;
    let verifier = match std::str::from_utf8(secret.expose()) {
        Ok(text) if text.starts_with("SCRAM-SHA-") => {
            let parsed = Verifier::parse(text);
            parsed.map(|_| text.to_owned()).map_err(|error| Failure::usage(error.to_string()))?
        }
        Ok(text) if is_md5(text) => {
            let what = "this is an MD5 hash, as pg_authid has it, and SCRAM can't be done with one";
            let hint = "set the password anew on the server, with password_encryption = \
                        scram-sha-256, or give the password itself";
            return Err(Failure::usage(format!("{what}: {hint}")));
        }
        _ if secret.is_empty() => return Err(Failure::usage("the password is empty")),
        _ => Verifier::text_of_password(secret.expose()),
    };
    change(path, |text| {
        check(path, text)?;
        Ok(users::with(text, name, &verifier))
    })
}

/// As `pg_authid.rolpassword` has it (`get_password_type`, crypt.c).
fn is_md5(text: &str) -> bool {
    let hash = text.strip_prefix("md5").filter(|hash| hash.len() == 32);
    hash.is_some_and(|hash| hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn remove(path: &Path, name: &str) -> Result<(), Failure> {
    change(path, |text| {
        if !users::names(text).any(|known| known == name) {
            return Err(Failure::failed(format!("{} has no user \"{name}\"", path.display())));
        }
        Ok(users::without(text, name))
    })
}

/// A file that can't be used as it is isn't written to.
fn check(path: &Path, text: &str) -> Result<(), Failure> {
    let known = users::find(text, "", b"");
    known.map(drop).map_err(|error| Failure::failed(format!("{}: {error}", path.display())))
}

/// Asked for on a terminal; else the first line of standard input.
fn secret() -> Result<Secret, Failure> {
    if io::stdin().is_terminal() {
        return terminal::ask_password().map(Secret::new);
    }
    let mut line = String::new();
    let read = io::stdin().take(MAX_SECRET_BYTES).read_to_string(&mut line);
    read.map_err(|error| Failure::failed(format!("can't read the password: {error}")))?;
    Ok(Secret::new(line.lines().next().unwrap_or_default().to_owned()))
}

fn read(path: &Path) -> Result<String, Failure> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        text => text.map_err(|error| Failure::failed(format!("{}: {error}", path.display()))),
    }
}

/// Changes the file as a whole, for its owner's eyes alone. Nobody else does meanwhile.
fn change(path: &Path, new: impl FnOnce(&str) -> Result<String, Failure>) -> Result<(), Failure> {
    let failed =
        |error: io::Error| Failure::failed(format!("can't write {}: {error}", path.display()));
    let temporary = path.with_extension("tmp");
    let file = lock(&temporary).map_err(failed)?;
    let changed = read(path)
        .and_then(|text| new(&text))
        .and_then(|text| replace(path, &temporary, file, &text).map_err(failed));
    if changed.is_err() {
        _ = fs::remove_file(&temporary);
    }
    changed
}

/// The file that becomes the new one, which nobody else has: whoever waited for it has the one that
/// became the old one, and begins again.
fn lock(temporary: &Path) -> io::Result<File> {
    loop {
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(temporary)?;
        file.lock()?;
        let own = file.metadata()?;
        match fs::metadata(temporary) {
            Ok(there) if there.ino() == own.ino() => return Ok(file),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
}

fn replace(path: &Path, temporary: &Path, mut file: File, text: &str) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let dir = File::open(dir.unwrap_or(Path::new(".")))?;
    // It may be left of one that was killed.
    file.set_len(0)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    // Whoever serves has to read it, also if root puts users in.
    let owner = fs::metadata(path).or_else(|_| dir.metadata())?;
    let own = file.metadata()?;
    if (own.uid(), own.gid()) != (owner.uid(), owner.gid()) {
        fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(temporary, path)?;
    dir.sync_all()
}
