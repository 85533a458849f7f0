//! A restored server gets the WAL that it recovers by, whatever is expired meanwhile, until it is
//! released or its time is over.

use serde_json::Value;

use super::super::backup::{backup, list, recover, restore, restored, seawall};
use super::super::common::{Must, server, server_flush};
use super::super::restore_wal::{Kept, work};
use super::assert_sound;
use super::expire::expire;
use crate::program::ended;

fn holds(kept: &Kept) -> Vec<Value> {
    list(kept)["holds"].as_array().cloned().unwrap_or_default()
}

#[test]
fn a_restored_server_recovers_after_its_backup_was_expired() {
    let (kept, primary) = (Kept::new(), server(18, 1, &[]));
    let mut receiver = kept.receiver(&primary);
    work(&primary);
    backup(&kept, &primary, &[]);
    let rows = "SELECT count(*) FROM t";
    work(&primary);
    let mut slow = restored(&kept, primary.install(), &[], &[]);
    backup(&kept, &primary, &[]);
    receiver.await_flush(&primary, work(&primary));
    let expected = primary.sql(rows).must();

    let held = holds(&kept);
    assert_eq!(held.len(), 1, "{held:?}");
    let name = held[0]["name"].as_str().unwrap_or_default().to_owned();
    let status = ended(&mut seawall(&kept, "status"));
    assert!(status.stdout.contains(&format!("hold        {name}")), "{status:?}");
    let dry = expire(&kept, &["--keep-backups", "1"]);
    assert!(dry.stdout.contains(&format!("which the hold {name}")), "{dry:?}");
    expire(&kept, &["--keep-backups", "1", "--yes"]).is_well();
    assert_eq!(list(&kept)["backups"].as_array().map(Vec::len), Some(1));
    // Only now it starts.
    receiver.await_flush(&primary, server_flush(&primary));
    receiver.stop();
    recover(&mut slow);
    assert_eq!(slow.sql(rows).must(), expected);

    // A dry run lets nothing go, and a name that isn't one is said so.
    let sealed = kept.sealed().len();
    expire(&kept, &["--release", &name]).is_well();
    expire(&kept, &["--release", "x", "--yes"]).says(1, &["there is no hold x"]);
    expire(&kept, &["--keep-backups", "1", "--yes"]).is_well();
    assert_eq!((holds(&kept).len(), kept.sealed().len()), (1, sealed));
    expire(&kept, &["--release", &name, "--yes"]).is_well();
    assert!(holds(&kept).is_empty());
    expire(&kept, &["--keep-backups", "1", "--yes"]).is_well();
    assert!(kept.sealed().len() < sealed);
    assert_sound(&kept, &["--full"]);

    // None is made where none is wanted; one whose time is over holds nothing, and is cleared away.
    let data = kept.scratch.server_dir("data").must();
    restore(&kept, &data.join("1"), &["--hold", "0"]).is_well();
    assert!(holds(&kept).is_empty());
    restore(&kept, &data.join("2"), &["--hold", "1ms"]).is_well();
    let shown = ended(&mut seawall(&kept, "list"));
    assert!(shown.stdout.contains("(over)"), "{shown:?}");
    expire(&kept, &["--keep-backups", "1", "--yes"]).is_well();
    assert!(holds(&kept).is_empty());
}
