//! Names of the operating system's users.

use std::fs;

/// The name of a user, as `/etc/passwd` has it; one of a directory service isn't there.
#[must_use]
pub fn user_name(uid: u32) -> Option<String> {
    let uid = uid.to_string();
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    passwd.lines().map(|line| line.split(':')).find_map(|mut fields| {
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    })
}
