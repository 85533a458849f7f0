//! `seawall adopt`: a directory of pg_receivewal becomes an archive, where it is.

use std::io::{self, Write};
use std::sync::Arc;

use archive::Adopted;
use disk::{Files, RealFiles};

use crate::Failure;
use crate::cli::AdoptArgs;

pub(crate) fn run(args: &AdoptArgs) -> Result<(), Failure> {
    let shown = args.dir.display();
    let files: Arc<dyn Files> = Arc::new(RealFiles::new(args.dir.clone()));
    let mut random = [0; 16];
    _ = getrandom::fill(&mut random);
    let holder = format!("seawall adopt, process {}", std::process::id());
    let adopted = archive::adopt(&files, &holder, &random);
    let Adopted { segments, moved, end } =
        adopted.map_err(|error| Failure::from(error).of(&shown.to_string()))?;
    let text = if moved == 0 {
        format!("{shown} is an archive already: {segments} segments, up to {end}\n")
    } else {
        format!(
            "{shown} is an archive now: {segments} segments, all checked, up to {end}; go on with \
             `seawall receive -A {shown} …`, and the slot that pg_receivewal had\n"
        )
    };
    let written = io::stdout().write_all(text.as_bytes());
    written.map_err(|error| Failure::failed(format!("can't write the answer: {error}")))
}
