//! Logins: what an `authFile` may look like, and that no password gets out.

use super::*;
use proptest::prelude::*;

fn parsed(text: &str) -> Result<(String, String, String), &'static str> {
    Credentials::parse(text.as_bytes()).map(|it| (it.registry, it.username, it.password.reveal().to_owned()))
}

#[test]
fn three_lines_are_read_as_editors_write_them() {
    let want = Ok(("reg.example:5000".to_owned(), "ada".to_owned(), "pass word".to_owned()));
    for text in [
        "reg.example:5000\nada\npass word",
        "reg.example:5000\nada\npass word\n",
        "reg.example:5000\r\nada\r\npass word\r\n\r\n",
        "\u{feff}https://reg.example:5000/\n ada \npass word\n \n",
    ] {
        assert_eq!(parsed(text), want, "{text:?}");
    }
    assert_eq!(parsed("https://index.docker.io/v1/\na\n p ").unwrap().0, "docker.io");
    assert_eq!(parsed("docker.io\na\n p ").unwrap().2, " p ");
}

#[test]
fn other_contents_are_refused() {
    for (text, why) in [
        ("", "three lines"),
        ("a.b\nada", "three lines"),
        ("a.b\nada\n\n", "three lines"),
        ("a.b\n\npw", "three lines"),
        ("a.b\nada\npw\nmore", "more than three"),
        ("root:$6$x/y:1:2\nada\npw", "registry"),
        ("a.b\nada\np\tw", "control"),
    ] {
        assert!(parsed(text).unwrap_err().contains(why), "{text:?}");
    }
    assert!(Credentials::parse(b"a.b\nada\n\xff").unwrap_err().contains("UTF-8"));
}

/// Everybody may enter it, and what is made in it.
fn open_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

async fn login_of(auth_file: &str, image: &str, job_dir: &Path) -> Result<Login, CredentialsError> {
    let allowed = Allowed::only([job_dir.to_owned()]);
    login_for(auth_file, image, "no-such-account", allowed, &Disks::new()).await
}

#[tokio::test]
async fn only_what_the_submitter_may_read_is_read() {
    let dir = open_dir();
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir(at("jobs")).unwrap();
    for name in ["jobs/auth", "secret"] {
        std::fs::write(at(name), "hunter2registry\nhunter2user\nhunter2secret\n").unwrap();
    }
    std::os::unix::fs::symlink(at("secret"), at("jobs/link")).unwrap();
    for name in ["secret", "jobs/link", "jobs/../secret", "absent"] {
        let error = login_of(at(name).to_str().unwrap(), "a", &at("jobs")).await.unwrap_err();
        let said = error.to_string();
        assert!(error.is_user_error() && said.starts_with("authFile") && !said.contains("hunter2"), "{said}");
    }
    let file = at("jobs/auth");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let error = login_of(file.to_str().unwrap(), "a", &at("jobs")).await.unwrap_err();
    assert!(error.is_user_error() && error.to_string().contains("submitter's account"), "{error}");
    // Everybody may read the file, and not come to it.
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::set_permissions(at("jobs"), std::fs::Permissions::from_mode(0o700)).unwrap();
    if nix::unistd::Uid::effective().is_root() {
        let error = login_of(file.to_str().unwrap(), "a", &at("jobs")).await.unwrap_err();
        assert!(error.is_user_error() && error.to_string().contains("submitter's account"), "{error}");
    }
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let own = nix::unistd::User::from_uid(nix::unistd::Uid::effective()).unwrap().unwrap().name;
    let allowed = Allowed::only([at("jobs")]);
    let found = login_for(file.to_str().unwrap(), "a", &own, allowed, &Disks::new()).await;
    // Its own account may read it; it is no login for this image.
    assert!(!found.is_err_and(|error| error.to_string().contains("submitter's account")));
}

#[tokio::test]
async fn a_login_goes_only_to_the_registry_it_names() {
    let dir = open_dir();
    let file = dir.path().join("auth");
    std::fs::write(&file, "reg.example\nada\nhunter2secret\n").unwrap();
    let uri = format!("file://{}", file.display());
    let login = login_of(&uri, "reg.example/a:1", dir.path()).await.unwrap();
    assert_eq!(login.credentials.as_ref().map(Credentials::registry), Some("reg.example"));
    assert!(login.notices.is_empty());
    let other = login_of(&uri, "python:3.12", dir.path()).await.unwrap();
    assert_eq!(other.credentials, None);
    let notice = &other.notices[0];
    assert!(notice.contains("docker.io") && !notice.contains("reg.example"), "a line of the file is in it: {notice}");
    let hdfs = login_of("hdfs://h:1/auth", "a", dir.path()).await.unwrap();
    assert!(hdfs.credentials.is_none() && hdfs.notices[0].contains("authFile cannot be read here"));
    assert_eq!(login_of("", "a", dir.path()).await.unwrap(), Login::default());
}

#[tokio::test]
async fn what_is_no_small_regular_file_is_refused() {
    let dir = open_dir();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("big"), vec![b'a'; 20_000]).unwrap();
    nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::fs::set_permissions(at("pipe"), std::fs::Permissions::from_mode(0o644)).unwrap();
    for (name, why, user) in
        [("big", "bigger", true), ("pipe", "regular", true), (".", "regular", true), ("absent", "No such file", true)]
    {
        let error = login_of(&at(name).to_string_lossy(), "a", dir.path()).await.unwrap_err();
        assert!(error.to_string().contains(why), "{name}: {error}");
        assert_eq!(error.is_user_error(), user, "{name}");
    }
    let error = login_of("relative/auth", "a", dir.path()).await.unwrap_err();
    assert!(error.is_user_error() && error.to_string().starts_with("authFile: "), "{error}");
}

proptest! {
    /// Passwords of printable characters, whatever else is said around them.
    #[test]
    fn no_output_holds_the_password(password in "[!-~]{6,40}", around in "[a-z ]{0,20}") {
        let login = Credentials::parse(format!("reg.example\nada\n{password}").as_bytes()).unwrap();
        let image = Reference::parse("reg.example/a:1").unwrap();
        let said = format!("{around}{password}{around} unauthorized {password:?}");
        let error = super::super::images::error::of_words(&image, Some(&login), Some(500), &said);
        // What is said anyway may hold a very short or very plain password by chance.
        let plain = super::super::images::error::of_words(&image, Some(&login), Some(500), "unauthorized").to_string();
        prop_assume!(!plain.contains(&password) && !format!("{around}{around} unauthorized ").contains(&password));
        for text in [format!("{login:?}"), format!("{login:#?}"), error.to_string(), format!("{error:?}")] {
            prop_assert!(!text.contains(&password), "{}", text);
        }
    }
}
