//! Incremental backups and what they stand on: each has only what changed since its parent, so that
//! nothing is given back without all of them, down to a full one.

use crate::{BackupError, Description};

impl Description {
    /// The backup that this one stands on; `None` for a full one.
    #[must_use]
    pub fn parent(&self) -> Option<&str> {
        self.incremental.as_ref().map(|link| link.parent.as_str())
    }
}

/// The backups that are needed to give one back, of all that there are: the full one first, itself
/// last.
///
/// # Errors
/// If one of them isn't there, isn't what the next one was taken after, or has no checksums where the
/// next one has: pages of both in one cluster are pages that it can't read.
pub fn chain(all: &[Description], backup: &Description) -> Result<Vec<Description>, BackupError> {
    let mut chain = vec![backup.clone()];
    while let Some(link) = chain.last().and_then(|child| child.incremental.as_ref()) {
        let child = chain.last().unwrap_or(backup);
        let missing = |why: &str| BackupError::MissingLink {
            id: backup.id.clone(),
            parent: link.parent.clone(),
            why: why.to_owned(),
        };
        // A parent began before its child did: there is no circle.
        let parent = all.iter().find(|other| other.id == link.parent);
        let parent =
            parent.ok_or_else(|| missing("none of that name is there that can be read"))?;
        if parent.start != link.from || parent.start.lsn >= child.start.lsn {
            return Err(missing("the backup of that name is another one"));
        }
        if parent.system_identifier != child.system_identifier
            || parent.server_major() != child.server_major()
        {
            return Err(missing("the backup of that name is of another cluster"));
        }
        if child.data_checksums && !parent.data_checksums {
            let (id, parent) = (child.id.clone(), parent.id.clone());
            return Err(BackupError::NewChecksums { id, parent });
        }
        chain.push(parent.clone());
    }
    chain.reverse();
    Ok(chain)
}

/// The same, where the server found nothing damaged in any of them: what is taken by itself.
///
/// # Errors
/// As [`chain`], and if it did.
pub fn sound(all: &[Description], backup: &Description) -> Result<Vec<Description>, BackupError> {
    let chain = chain(all, backup)?;
    match chain.iter().find_map(|link| Some((link, link.damage.first()?))) {
        None => Ok(chain),
        Some((link, damage)) => Err(BackupError::DamagedOnServer {
            id: backup.id.clone(),
            link: link.id.clone(),
            damage: damage.clone(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use pg_types::Lsn;

    use super::*;
    use crate::description::Incremental;
    use crate::description::tests::sample;

    fn backups() -> Vec<Description> {
        let mut backups: Vec<Description> = ["full", "one", "two"].map(sample).into();
        for at in 1..backups.len() {
            let (parent, from) = (backups[at - 1].id.clone(), backups[at - 1].start);
            backups[at].incremental = Some(Incremental { parent, from, block_size: 8192 });
            backups[at].start.lsn = Lsn::new(from.lsn.as_u64() + 100);
        }
        backups
    }

    #[test]
    fn a_chain_begins_with_a_full_one() {
        let all = backups();
        let ids = |backup| chain(&all, backup).map(|all| all.into_iter().map(|b| b.id).collect());
        assert_eq!(ids(&all[0]), Ok(vec!["full".to_owned()]));
        assert_eq!(ids(&all[2]), Ok(vec!["full".to_owned(), "one".to_owned(), "two".to_owned()]));
    }

    #[test]
    fn a_missing_link_is_named() {
        let check = |all: &[Description], last: &Description, expect: &str| {
            let error = chain(all, last).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        };
        let all = backups();
        check(&all[1..], &all[2], "needs the backup full");
        check(&[all[0].clone(), all[2].clone()], &all[2], "needs the backup one");
        let mut other = backups();
        other[1].start.lsn = Lsn::new(7);
        check(&other, &all[2], "is another one");
        let mut switched = backups();
        switched[0].data_checksums = false;
        check(&switched, &switched[2], "got checksums between full and it");
        switched[1].data_checksums = false;
        check(&switched, &switched[2], "got checksums between one and it");
        assert!(chain(&switched, &switched[1]).is_ok());
        // They may have gone: nobody looks at them then.
        switched.iter_mut().for_each(|backup| backup.data_checksums = backup.id == "full");
        assert!(chain(&switched, &switched[2]).is_ok());
        // One that stands on itself.
        let mut circle = backups();
        let from = circle[0].start;
        circle[0].incremental = Some(Incremental { parent: "full".into(), from, block_size: 8192 });
        check(&circle, &circle[2], "needs the backup full");
    }

    #[test]
    fn damage_is_that_of_all_that_stand_on_it() {
        let mut all = backups();
        all[1].damage = vec!["base/1/2 fails its checksums".to_owned()];
        let damaged = |at: usize| sound(&all, &all[at]).map_err(|error| error.to_string());
        assert_eq!(damaged(0).map(|links| links.len()), Ok(1));
        assert!(damaged(1).is_err_and(|error| error.contains("when one was taken")));
        assert!(damaged(2).is_err_and(|error| error.contains("backup two isn't sound")));
    }
}
