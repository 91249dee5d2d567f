//! Which variables of a container hold a secret, by their names, and where the name does not tell by the shape of the value. Values are looked
//! at and never kept.

use reqwest::Url;

/// Words that say so wherever they stand in a name, in one word with others too.
const SECRET: [&str; 6] = ["PASSWORD", "PASSWD", "PASSPHRASE", "SECRET", "TOKEN", "CREDENTIAL"];
/// What a name ends in that is about a secret, and does not hold it.
const ABOUT: [&str; 6] = ["PATH", "DIR", "ID", "NAME", "TYPE", "HEADER"];
/// What a switch is set to.
const SWITCHES: [&str; 10] = ["on", "off", "yes", "no", "true", "false", "enabled", "disabled", "none", "null"];
const ROLE: &str = "HTTP_CONTROL_SERVER_AUTH_DEFAULT_ROLE";
/// With Mullvad that is the number of the account, which is all that it has.
const ACCOUNT: &str = "OPENVPN_USER";

/// The names of those of an environment.
pub(super) fn variables(env: &[String]) -> Vec<String> {
    let pairs = || env.iter().filter_map(|line| line.split_once('=')).filter(|(_, value)| !value.is_empty());
    let mullvad = pairs().any(|(name, value)| name == "VPN_SERVICE_PROVIDER" && value.eq_ignore_ascii_case("mullvad"));
    let holds = |(name, value): &(&str, &str)| is_secret(name, value) || mullvad && *name == ACCOUNT;
    pairs().filter(holds).map(|(name, _)| name.to_owned()).collect()
}

fn is_secret(name: &str, value: &str) -> bool {
    let name = name.to_uppercase();
    if has_login(value) {
        return true;
    }
    if name == ROLE {
        return value.contains("apikey") || value.contains("password");
    }
    // A path to a file with the secret is how it should be done (`NAME_FILE`, and `FILE__NAME` of linuxserver.io); public keys are public.
    let is_path = name.starts_with("FILE__") || name.ends_with("FILE");
    let is_public = name.contains("PUBLIC_KEY") || name.ends_with("GPG_KEY") || name.ends_with("GPG_KEYS");
    if is_path || is_public {
        return false;
    }
    let words: Vec<&str> = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let Some(last) = words.last() else { return false };
    let says = |word: &str| {
        SECRET.iter().any(|secret| word.contains(secret)) || word.ends_with("KEY") || word.ends_with("KEYS")
    };
    // The shell keeps where it is in PWD.
    let ends_so = says(last) || *last == "PASS" || *last == "PWD" && words.len() > 1;
    let is_login = *last == "AUTH" && value.contains(':') && !value.contains("://");
    if !ends_so && !is_login && (!words.iter().any(|word| says(word)) || ABOUT.contains(last)) {
        return false;
    }
    // A number is how long or how many, unless the name is that of the secret itself.
    let is_number = !ends_so && value.parse::<f64>().is_ok();
    // Base64 may begin with a slash as well, and is then mostly padded.
    let is_file = value.starts_with('/') && !value.ends_with('=');
    let is_address = Url::parse(value).is_ok_and(|url| url.has_host() && url.query().is_none());
    !(is_number || is_file || is_address || SWITCHES.contains(&value.to_ascii_lowercase().as_str()))
}

/// Whether it is a URL with a password in it.
fn has_login(value: &str) -> bool {
    Url::parse(value.trim_matches(['"', '\'']))
        .is_ok_and(|url| url.password().is_some_and(|password| !password.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(lines: &[&str]) -> Vec<String> {
        variables(&lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn secrets_are_named() {
        for line in [
            "WIREGUARD_PRIVATE_KEY=a",
            "WIREGUARD_PRIVATE_KEY=/ab+cdefghijklmnopqrstuvwxyz0123456789ABCDEF=",
            "OPENVPN_PASSWORD=12345678",
            "PUBLICIP_API_TOKEN=a",
            "webui_password=a",
            "SONARR__AUTH__APIKEY=a",
            "API_KEY_SONARR=a",
            "SECRET_KEY_BASE=a",
            "PASS=a",
            "TRANSMISSION_PASS=a",
            "DB_PWD=a",
            "AWS_CREDENTIALS=a",
            "HTTP_AUTH=me:hunter2",
            "DATABASE_URL=postgres://me:hunter2@db/sonarr",
            "HTTP_PROXY=\"http://me:hunter2@proxy:3128\"",
            "TOKEN=https://hooks.example.net/?key=hunter2",
            "HTTP_CONTROL_SERVER_AUTH_DEFAULT_ROLE={\"auth\":\"apikey\",\"apikey\":\"x\"}",
        ] {
            assert_eq!(named(&[line]), line.split('=').take(1).collect::<Vec<_>>(), "{line}");
        }
    }

    #[test]
    fn what_is_about_a_secret_is_none() {
        for line in [
            "WIREGUARD_PRIVATE_KEY=",
            "WIREGUARD_PRIVATE_KEY_SECRETFILE=/run/secrets/k",
            "OPENVPN_PASSWORD_FILE=/x",
            "FILE__WEBUI_PASSWORD=/run/secrets/x",
            "WIREGUARD_PUBLIC_KEY=a",
            "GPG_KEY=A035",
            "GPG_KEYS=A035 B046",
            "PHP_GPG_KEYS=A035",
            "PASSWORD_ACCESS=false",
            "USE_TOKEN=on",
            "PASSWORD_MIN_LENGTH=12",
            "TOKEN_TTL=0.5",
            "KEYCLOAK_URL=https://sso.lan/",
            "OAUTH_TOKEN_URL=https://sso.lan/token",
            "PLEX_TOKEN_PATH=/config/token",
            "TLS_KEY=/certs/key.pem",
            "AWS_ACCESS_KEY_ID=AKIA",
            "KEYBOARD=de",
            "MONKEY_COUNT=3",
            "WEBUI_AUTH=basic",
            "PWD=/app",
            "OLDPWD=/",
            "BYPASS=subnet",
            "COMPASS=north",
            "DATABASE_URL=postgres://db/sonarr",
            "DOCKER_HOST=ssh://me@nas",
            "PATH=/bin",
            "HTTP_CONTROL_SERVER_AUTH_DEFAULT_ROLE={\"auth\":\"none\"}",
            "KEY",
            "=",
        ] {
            assert_eq!(named(&[line]), [""; 0], "{line}");
        }
    }

    #[test]
    fn the_user_is_the_secret_with_mullvad_alone() {
        let user = "OPENVPN_USER=1234567890123456";
        assert_eq!(named(&["VPN_SERVICE_PROVIDER=mullvad", user]), ["OPENVPN_USER"]);
        assert_eq!(named(&["VPN_SERVICE_PROVIDER=nordvpn", user]), [""; 0]);
    }
}
