//! Connection URIs: `postgresql://user:password@host:port/dbname?option=value`.
//!
//! Reads what libpq reads (`conninfo_uri_parse_options`, fe-connect.c): every part may be missing,
//! IPv6 addresses stand in brackets, `%2F` makes a socket directory of the host, `ssl=true` means
//! `sslmode=require`. An error names the part and never shows its text: where a `/` or `@` in a
//! password wasn't percent-encoded, any part may be a piece of the password.

use super::conninfo::Pair;
use super::{SettingsError, keywords};

const PREFIXES: [&str; 2] = ["postgresql://", "postgres://"];

/// What follows the scheme, if the text is a URI at all.
pub(super) fn strip_scheme(text: &str) -> Option<&str> {
    PREFIXES.iter().find_map(|prefix| text.strip_prefix(prefix))
}

fn syntax(what: &'static str, at: usize) -> SettingsError {
    SettingsError::Uri { what, at }
}

/// Reads a URI, whose scheme is stripped off already, into its options.
pub(super) fn parse(text: &str) -> Result<Vec<Pair>, SettingsError> {
    let mut pairs = Vec::new();
    let mut rest = text;
    // A user stands there if an @ comes before any slash.
    let end = rest.find(['@', '/']).unwrap_or(rest.len());
    let has_user = rest.get(end..).is_some_and(|rest| rest.starts_with('@'));
    if has_user {
        let (credentials, behind) = rest.split_at(end);
        rest = behind.strip_prefix('@').unwrap_or(behind);
        let (user, password) = match credentials.split_once(':') {
            Some((user, password)) => (user, password),
            None => (credentials, ""),
        };
        push(&mut pairs, "user", user)?;
        push(&mut pairs, "password", password)?;
    }
    let (hosts, ports, behind) = hosts_and_ports(rest, text.len())?;
    rest = behind;
    push(&mut pairs, "host", &hosts)?;
    push(&mut pairs, "port", &ports)?;
    if let Some(path) = rest.strip_prefix('/') {
        let end = path.find('?').unwrap_or(path.len());
        let (dbname, behind) = path.split_at(end);
        // An empty name isn't set at all, so that PGDATABASE still counts.
        push(&mut pairs, "dbname", dbname)?;
        rest = behind;
    }
    if let Some(parameters) = rest.strip_prefix('?') {
        // An @ here without a user before it: the password may have begun further left.
        let show_names = has_user || !rest.contains('@');
        let at = |part: &str| position(text.len(), part);
        let mut rest = parameters;
        while !rest.is_empty() {
            let start = at(rest);
            let (parameter, behind) = rest.split_once('&').unwrap_or((rest, ""));
            parameter_pair(&mut pairs, parameter, show_names, start)?;
            rest = behind;
        }
    }
    Ok(pairs)
}

/// Where `rest`, the end of the URI, begins: in bytes behind the scheme, from 1.
fn position(len: usize, rest: &str) -> usize {
    len.saturating_sub(rest.len()).saturating_add(1)
}

/// The hosts and the ports, each joined by commas as libpq joins them, and what follows them.
fn hosts_and_ports(text: &str, len: usize) -> Result<(String, String, &str), SettingsError> {
    let (mut hosts, mut ports) = (String::new(), String::new());
    let mut rest = text;
    loop {
        let at = position(len, rest);
        let host_end = if let Some(inner) = rest.strip_prefix('[') {
            let (address, behind) = inner
                .split_once(']')
                .ok_or_else(|| syntax("the IPv6 address has no closing \"]\"", at))?;
            if address.is_empty() {
                return Err(syntax("the IPv6 address is empty", at));
            }
            if !behind.is_empty() && !behind.starts_with([':', '/', '?', ',']) {
                let what = "the IPv6 address is followed by neither \":\" nor \"/\"";
                return Err(syntax(what, position(len, behind)));
            }
            hosts.push_str(address);
            behind
        } else {
            let end = rest.find([':', '/', '?', ',']).unwrap_or(rest.len());
            let (host, behind) = rest.split_at(end);
            hosts.push_str(host);
            behind
        };
        rest = host_end;
        if let Some(behind) = rest.strip_prefix(':') {
            let end = behind.find(['/', '?', ',']).unwrap_or(behind.len());
            let (port, behind) = behind.split_at(end);
            ports.push_str(port);
            rest = behind;
        }
        match rest.strip_prefix(',') {
            Some(behind) => rest = behind,
            None => return Ok((hosts, ports, rest)),
        }
        hosts.push(',');
        ports.push(',');
    }
}

fn parameter_pair(
    pairs: &mut Vec<Pair>,
    parameter: &str,
    show_name: bool,
    at: usize,
) -> Result<(), SettingsError> {
    let (name, value) =
        parameter.split_once('=').ok_or_else(|| syntax("the query parameter has no \"=\"", at))?;
    if value.contains('=') {
        return Err(syntax("the query parameter has a second \"=\" (write it as %3D)", at));
    }
    let (name, value) = (decode(name, "a parameter's name")?, decode(value, "a parameter")?);
    if name == "ssl" && value == "true" {
        pairs.push(("sslmode", "require".to_owned()));
        return Ok(());
    }
    let pair = keywords::pair(&name, value)
        .ok_or_else(|| SettingsError::unknown_parameter(&name, show_name, at))?;
    pairs.push(pair);
    Ok(())
}

/// Adds a part that isn't empty.
fn push(pairs: &mut Vec<Pair>, name: &'static str, text: &str) -> Result<(), SettingsError> {
    if !text.is_empty() {
        pairs.push((name, decode(text, name)?));
    }
    Ok(())
}

/// Undoes percent-encoding. Spaces around the text are dropped; inside they must be encoded.
fn decode(text: &str, part: &'static str) -> Result<String, SettingsError> {
    let error = |what| Err(SettingsError::UriPart { part, what });
    let text = text.trim_matches(' ');
    if text.contains(' ') {
        return error("has a space in it: write it as %20");
    }
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return error("has a \"%\" that two hexadecimal digits don't follow");
        };
        match u8::try_from(high << 4 | low) {
            Ok(0) | Err(_) => return error("has a %00 in it, which nothing may"),
            Ok(decoded) => out.push(decoded),
        }
    }
    String::from_utf8(out)
        .or_else(|_| error("isn't UTF-8 (give such a password in the password file)"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The options in the order libpq keeps them in doesn't matter: sorted, as `name=value`.
    fn read(uri: &str) -> Result<String, String> {
        let rest = strip_scheme(uri).ok_or("no URI")?;
        let mut pairs = std::collections::BTreeMap::new();
        pairs.extend(parse(rest).map_err(|error| error.to_string())?);
        Ok(pairs.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join(" "))
    }

    #[track_caller]
    fn check(uri: &str, expect: &str) {
        assert_eq!(read(uri).as_deref(), Ok(expect), "{uri}");
    }

    #[track_caller]
    fn check_error(uri: &str, expect: &str) {
        let error = read(uri).unwrap_err();
        assert!(error.contains(expect), "{uri}: {error}");
        assert!(!error.contains("canary"), "{error}");
    }

    #[test]
    fn parts_may_be_missing() {
        check("postgresql://u:s@h:12345/db", "dbname=db host=h password=s port=12345 user=u");
        check("postgresql://u@h:12345/db", "dbname=db host=h port=12345 user=u");
        check("postgresql://u@h/db", "dbname=db host=h user=u");
        check("postgresql://h:12345/db", "dbname=db host=h port=12345");
        check("postgresql://u@h:12345/", "host=h port=12345 user=u");
        check("postgresql://u@", "user=u");
        check("postgresql://h:12345", "host=h port=12345");
        check("postgresql://h/", "host=h");
        check("postgresql://h", "host=h");
        check("postgresql://h?", "host=h");
        check("postgresql://", "");
        check("postgres:///", "");
        check("postgres:///db", "dbname=db");
        check("postgres://u@/db", "dbname=db user=u");
        check("postgres://@h", "host=h");
        check("postgres://h:/", "host=h");
        check("postgres://:12345/", "port=12345");
        check("postgres://u:@h", "host=h user=u");
        assert!(strip_scheme("postgre://").is_none());
    }

    #[test]
    fn query_parameters() {
        check("postgresql://?hostaddr=127.0.0.1", "hostaddr=127.0.0.1");
        check("postgresql://example.com?hostaddr=63.1.2.4", "host=example.com hostaddr=63.1.2.4");
        check("postgresql://h/db?user=u&port=12345", "dbname=db host=h port=12345 user=u");
        check("postgresql://h/db?u%73er=v&port=1", "dbname=db host=h port=1 user=v");
        check("postgresql://u@h?user=v", "host=h user=v");
        check("postgresql://h? user = u & port = 12345 ", "host=h port=12345 user=u");
        check("postgres://?host=/path/to/dir", "host=/path/to/dir");
        check("postgres://u@:1/db?host=/dir", "dbname=db host=/dir port=1 user=u");
        check("postgres://h?ssl=true", "host=h sslmode=require");
        check("postgres://h?user=a%3Db%26c", "host=h user=a=b&c");
        check("postgres://h?user=", "host=h user=");
    }

    #[test]
    fn addresses_and_encodings() {
        check("postgresql://[::1]:12345/db", "dbname=db host=::1 port=12345");
        check("postgresql://[::1]", "host=::1");
        check("postgresql://[200z:db8::1234]/", "host=200z:db8::1234");
        check("postgresql://%68ost/", "host=host");
        check("postgres://%2Fvar%2Flib%2Fpostgresql/db", "dbname=db host=/var/lib/postgresql");
        check("postgres://u:p%40%2F%3A@h", "host=h password=p@/: user=u");
        check("postgres://u:p:q?r@h", "host=h password=p:q?r user=u");
        check("postgres://a:1,b,[::1]:3/db", "dbname=db host=a,b,::1 port=1,,3");
    }

    #[test]
    fn errors_name_the_part_and_never_show_it() {
        check_error("postgresql://h?uzer=", "\"uzer\"; did you mean \"user\"");
        check_error("postgresql://h/db?u%7aer=canary", "\"uzer\"");
        check_error("postgres://[::1", "no closing");
        check_error("postgres://[]", "empty");
        check_error("postgres://[::1]canary", "byte 6");
        check_error("postgresql://h?canary", "no \"=\"");
        check_error("postgresql://h?canary1&canary2", "no \"=\"");
        check_error("postgresql://h?key=key=value", "second \"=\"");
        check_error("postgres://h?dbname=%XXcanary", "hexadecimal");
        check_error("postgresql://a%00b", "%00");
        check_error("postgresql://%zz", "host");
        check_error("postgresql://%1", "hexadecimal");
        check_error("postgresql://%", "hexadecimal");
        check_error("postgresql://h?user=canary canary", "space");
        check_error("postgresql://u:canary canary@h", "password");
        check_error("postgresql://u:canary%ff@h", "UTF-8");
        check_error("postgresql://u:pass/word?canary=x@h/db", "byte");
    }

    proptest! {
        #[test]
        fn encoded_parts_come_back(user in "[^\0]{1,20}", password in "[^\0]{1,20}") {
            let encode = |text: &str| -> String {
                text.bytes().map(|byte| format!("%{byte:02x}")).collect()
            };
            let uri = format!("{}:{}@h", encode(&user), encode(&password));
            let expect = vec![("user", user), ("password", password), ("host", "h".to_owned())];
            prop_assert_eq!(parse(&uri).unwrap(), expect);
        }

        #[test]
        fn arbitrary_text_never_panics(text in r"([\[\]@:/?&=%,]|user|\PC){0,40}") {
            let _ = parse(&text);
        }
    }
}
