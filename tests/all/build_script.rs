//! The build script: it finds the commit without git, in every form in which git keeps it. git itself tells
//! the truth.

use crate::support::report_skipped;
use std::path::Path;
use std::process::Command;

#[allow(dead_code, reason = "its main function runs in builds only")]
#[path = "../../build.rs"]
mod script;

/// What git prints in a folder; `None` if there is no git, or if it fails.
fn git(dir: &Path, args: &[&str]) -> Option<String> {
    let set = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"];
    let output = Command::new("git").args(set).args(args).current_dir(dir).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The repository of this build. If the script had missed a commit, or had not run again after one, both
/// would differ.
#[test]
fn the_program_tells_the_commit_that_is_checked_out() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let head = git(root, &["rev-parse", "HEAD"]).filter(|_| root.join(".git").exists());
    let Some(head) = head else {
        return report_skipped("not run: the test of the commit; this is no git repository");
    };
    assert_eq!(tempra::COMMIT, Some(head.as_str()));
    let version = Command::new(env!("CARGO_BIN_EXE_tempra")).arg("--version").output().unwrap();
    assert!(String::from_utf8_lossy(&version.stdout).contains(&head));
}

#[test]
fn a_commit_is_found_in_every_form_of_a_repository() {
    let dir = tempfile::tempdir().unwrap();
    let (root, tree) = (dir.path().join("root"), dir.path().join("tree"));
    std::fs::create_dir(&root).unwrap();
    if git(&root, &["init", "-q"]).is_none() {
        return report_skipped("not run: the test of the build script; there is no git");
    }
    let found = |root: &Path| script::commit(&root.join(".git"));
    let check = |root: &Path, what: &str| {
        assert_eq!(found(root), Some(git(root, &["rev-parse", "HEAD"]).unwrap()), "{what}");
    };
    assert_eq!(found(&root), None, "a branch without a commit");
    git(&root, &["commit", "-q", "--allow-empty", "-m", "one"]).unwrap();
    check(&root, "a branch in a file of its own");
    git(&root, &["branch", "other/x"]).unwrap();
    git(&root, &["commit", "-q", "--allow-empty", "-m", "two"]).unwrap();
    git(&root, &["pack-refs", "--all"]).unwrap();
    check(&root, "packed branches, one whose name ends like another's");
    git(&root, &["worktree", "add", "-q", tree.to_str().unwrap(), "other/x"]).unwrap();
    check(&tree, "a linked worktree, with the packed branches of its repository");
    git(&tree, &["commit", "-q", "--allow-empty", "-m", "three"]).unwrap();
    check(&tree, "a linked worktree");
    assert_ne!(found(&tree), found(&root));
    git(&root, &["checkout", "-q", "--detach", "HEAD~1"]).unwrap();
    check(&root, "no branch");
    assert_eq!(found(dir.path()), None, "no repository");
    std::fs::write(root.join(".git/HEAD"), "not a commit\n").unwrap();
    assert_eq!(found(&root), None);
}
