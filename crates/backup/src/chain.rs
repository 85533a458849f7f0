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
/// If one of them isn't there, or isn't what the next one was taken after.
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
        let parent = parent.ok_or_else(|| missing("it isn't there"))?;
        if parent.start != link.from || parent.start.lsn >= child.start.lsn {
            return Err(missing("the backup of that name is another one"));
        }
        if parent.system_identifier != child.system_identifier
            || parent.server_major() != child.server_major()
        {
            return Err(missing("the backup of that name is of another cluster"));
        }
        chain.push(parent.clone());
    }
    chain.reverse();
    Ok(chain)
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
        // One that stands on itself.
        let mut circle = backups();
        let from = circle[0].start;
        circle[0].incremental = Some(Incremental { parent: "full".into(), from, block_size: 8192 });
        check(&circle, &circle[2], "needs the backup full");
    }
}
