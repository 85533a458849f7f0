//! Services: a named section of a file, with options as its lines (`pg_service.conf`).
//!
//! Reads as libpq does (`parseServiceInfo`, fe-connect.c): the file is PGSERVICEFILE's, else
//! `~/.pg_service.conf` if it has the service, else `pg_service.conf` in PGSYSCONFDIR. What is set
//! otherwise in the connection string wins over it; it wins over the environment. No error shows a
//! line.

use std::io;
use std::path::{Path, PathBuf};

use super::conninfo::{Pair, is_space};
use super::{Inputs, SettingsError, keywords};

/// Where the system's file is unless PGSYSCONFDIR says otherwise: Debian's place.
pub const DEFAULT_SYSCONFDIR: &str = "/etc/postgresql-common";

/// Longest line, as in libpq.
const MAX_LINE_LEN: usize = 1022;

/// The options of a service; the first of each name counts.
pub(super) fn read(
    inputs: &Inputs<'_>,
    name: &str,
    file: Option<String>,
) -> Result<Vec<Pair>, SettingsError> {
    let env = |name: &str| (inputs.env)(name);
    let named = file.or_else(|| env("PGSERVICEFILE")).map(PathBuf::from);
    let in_home = || inputs.home.as_ref().map(|home| home.join(".pg_service.conf"));
    if let Some(path) = named.clone().or_else(in_home)
        && let Some(content) = content(inputs, &path, named.is_some())?
        && let Some(pairs) = section(&content, name, &path)?
    {
        return Ok(pairs);
    }
    let dir = env("PGSYSCONFDIR").unwrap_or_else(|| DEFAULT_SYSCONFDIR.to_owned());
    let path = Path::new(&dir).join("pg_service.conf");
    if let Some(content) = content(inputs, &path, false)?
        && let Some(pairs) = section(&content, name, &path)?
    {
        return Ok(pairs);
    }
    Err(SettingsError::Service(format!("definition of service {name:?} not found")))
}

fn content(
    inputs: &Inputs<'_>,
    path: &Path,
    must_exist: bool,
) -> Result<Option<Vec<u8>>, SettingsError> {
    match (inputs.read_file)(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if !must_exist && error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            let path = path.display();
            Err(SettingsError::Service(format!("service file \"{path}\" not found: {error}")))
        }
    }
}

fn section(content: &[u8], name: &str, path: &Path) -> Result<Option<Vec<Pair>>, SettingsError> {
    let wrong = |what: &str, number: usize| {
        let (path, number) = (path.display(), number.saturating_add(1));
        SettingsError::Service(format!("{what} in service file \"{path}\", line {number}"))
    };
    let mut pairs: Option<Vec<Pair>> = None;
    for (number, line) in content.split(|byte| *byte == b'\n').enumerate() {
        if line.len() > MAX_LINE_LEN {
            return Err(wrong("line too long", number));
        }
        let line = String::from_utf8_lossy(line);
        let line = line.trim_matches(is_space);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(header) = line.strip_prefix('[') {
            if pairs.is_some() {
                break;
            }
            let found = header.strip_prefix(name).is_some_and(|rest| rest.starts_with(']'));
            pairs = found.then(Vec::new);
            continue;
        }
        let Some(pairs) = &mut pairs else { continue };
        let syntax = || wrong("syntax error", number);
        let (key, value) = line.split_once('=').ok_or_else(syntax)?;
        if key == "service" || key == "servicefile" {
            return Err(wrong(&format!("nested {key:?} specifications not supported"), number));
        }
        let keyword = keywords::find(key).ok_or_else(syntax)?;
        if pairs.iter().all(|(name, _)| *name != keyword.name) {
            pairs.push((keyword.name, value.to_owned()));
        }
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# comment\nhost=outside\n[other]\nhost=no\n\n [mine]\r\nhost=db1,db2\n\
                        port = 5433\nport=7\nport=8\n#x\npassword=it's = all \n[mine]\nuser=late\n";

    fn read_in(
        files: &[(&str, &str)],
        env: &[(&str, &str)],
        name: &str,
    ) -> Result<String, SettingsError> {
        let read_file = |path: &Path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path);
            found.map(|(_, text)| text.as_bytes().to_vec()).ok_or(io::ErrorKind::NotFound.into())
        };
        let lookup = |name: &str| {
            env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        let inputs = Inputs {
            env: &lookup,
            home: Some("/home/u".into()),
            read_file: &read_file,
            ..Inputs::default()
        };
        let pairs = read(&inputs, name, None)?;
        Ok(pairs.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join("|"))
    }

    #[test]
    fn a_section_as_libpq_reads_it() {
        let file = FILE.replace("port = 5433\n", "");
        let read = read_in(&[("/home/u/.pg_service.conf", &file)], &[], "mine");
        assert_eq!(read.unwrap(), "host=db1,db2|port=7|password=it's = all");
    }

    #[test]
    fn the_places_in_order() {
        let home = ("/home/u/.pg_service.conf", "[a]\nhost=home\n");
        let system = ("/etc/postgresql-common/pg_service.conf", "[a]\nhost=sys\n[b]\nhost=sys\n");
        let moved = ("/sys/pg_service.conf", "[b]\nhost=moved\n");
        let named = ("/named", "[c]\nhost=named\n");
        let check = |files: &[(&str, &str)], env: &[(&str, &str)], name, expect: &str| {
            let found = read_in(files, env, name).unwrap_or_else(|error| error.to_string());
            assert!(found.contains(expect), "{found}");
        };
        check(&[home, system], &[], "a", "host=home");
        check(&[home, system], &[], "b", "host=sys");
        check(&[home, system, moved], &[("PGSYSCONFDIR", "/sys")], "b", "host=moved");
        check(&[home, named, system], &[("PGSERVICEFILE", "/named")], "c", "host=named");
        // Home isn't looked at then, and the system's file is.
        check(&[home, named, system], &[("PGSERVICEFILE", "/named")], "a", "host=sys");
        check(&[home], &[("PGSERVICEFILE", "/none")], "a", "service file \"/none\" not found");
        check(&[home], &[], "z", "definition of service \"z\" not found");
        check(&[], &[], "z", "definition of service \"z\" not found");
    }

    #[test]
    fn errors_name_the_line_and_show_none() {
        let check = |text: &str, expect: &str| {
            let files = [("/home/u/.pg_service.conf", text)];
            let error = read_in(&files, &[], "a").unwrap_err().to_string();
            assert!(error.contains(expect) && !error.contains("canary"), "{error}");
        };
        check("[a]\ncanary\n", "syntax error in service file \"/home/u/.pg_service.conf\", line 2");
        check("[a]\nport = canary\n", "line 2");
        check("[a]\nservice=canary", "nested \"service\" specifications not supported");
        check(&format!("[a]\n{}", "canary".repeat(300)), "line too long");
    }
}
