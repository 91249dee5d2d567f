//! `--redact`: a report that can be shown to strangers. Masks the home addresses in every way in which an address is
//! commonly written; it cannot know other things that tell whose line it is, such as the name of a host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::model::report::{ProbeResult, Report};

/// Stands for a home address.
const HOME: &str = "[home]";
/// Stands for another address of a home's IPv6 /64: it tells the line just as well.
const NEIGHBOUR: &str = "[home net]";
/// The longest textual form of an address: IPv6 with an IPv4 tail.
const LONGEST: usize = 45;

impl Report {
    /// Masks each of `homes` in every text, and lets go of the packets themselves: what is in them cannot be masked.
    pub fn redact(&mut self, homes: &[IpAddr]) {
        if !std::mem::take(&mut self.wire.captured).is_empty() {
            self.notes.push("leaks.pcapng is not written under --redact: packets cannot be masked".to_owned());
        }
        let mask = Mask::new(homes);
        self.each_text(&mut |text, _| *text = mask.apply(text));
    }
}

impl ProbeResult {
    /// The same for one result, before it is told while the run goes on.
    pub fn redact(&mut self, mask: &Mask) {
        self.each_text(&mut |text, _| *text = mask.apply(text));
    }
}

/// The home addresses, ready to be looked for.
#[derive(Debug, Clone)]
pub struct Mask {
    v4: Vec<Ipv4Addr>,
    v6: Vec<Ipv6Addr>,
    /// Forms that are no addresses: with hyphens as in host names, and reversed as in the reverse DNS.
    forms: Vec<String>,
}

impl Mask {
    /// Looks for each of `homes`.
    pub fn new(homes: &[IpAddr]) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for home in homes {
            match home.to_canonical() {
                IpAddr::V4(ip) => v4.push(ip),
                IpAddr::V6(ip) => v6.push(ip),
            }
        }
        let mut forms = Vec::new();
        for ip in &v4 {
            let [a, b, c, d] = ip.octets();
            forms.extend([
                format!("{d}.{c}.{b}.{a}.in-addr.arpa"),
                format!("{a}-{b}-{c}-{d}"),
                format!("{d}-{c}-{b}-{a}"),
            ]);
        }
        for ip in &v6 {
            let nibbles = ip.octets().into_iter().rev().flat_map(|byte| [byte & 15, byte >> 4]);
            let labels: Vec<_> = nibbles.map(|nibble| format!("{nibble:x}")).collect();
            forms.extend([format!("{}.ip6.arpa", labels.join(".")), format!("{}.ip6.arpa", labels[16..].join("."))]);
        }
        Mask { v4, v6, forms }
    }

    /// `text` without them.
    pub fn apply(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        let mut before = None;
        while let Some(c) = rest.chars().next() {
            let (taken, shown) = match self.at(rest, before, &out) {
                Some((len, mask)) => (len, mask),
                None => (c.len_utf8(), &rest[..c.len_utf8()]),
            };
            out.push_str(shown);
            before = rest[..taken].chars().next_back();
            rest = &rest[taken..];
        }
        out
    }

    /// The length of what is to be hidden, or to be passed over whole, at the start of `rest`, and what to show for it.
    fn at<'a>(&self, rest: &'a str, before: Option<char>, out: &str) -> Option<(usize, &'a str)> {
        if let Some(form) = self.forms.iter().find(|form| starts_with(rest, form)) {
            let whole = !before.is_some_and(|c| c.is_ascii_digit())
                && !rest[form.len()..].starts_with(|c: char| c.is_ascii_digit());
            if whole {
                return Some((form.len(), HOME));
            }
        }
        if before.is_some_and(|c| c.is_ascii_alphanumeric()) {
            return None;
        }
        let run = rest.bytes().take(LONGEST).take_while(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.')).count();
        for len in (2..=run).rev() {
            let next = rest[len..].chars().next();
            if next.is_some_and(|c| c.is_ascii_hexdigit()) {
                continue;
            }
            match rest[..len].parse::<IpAddr>() {
                Ok(IpAddr::V4(ip)) => {
                    let longer = next == Some('.') && rest[len + 1..].starts_with(|c: char| c.is_ascii_digit());
                    let tail = before == Some('.') && out[..out.len() - 1].ends_with(|c: char| c.is_ascii_digit());
                    if longer || tail {
                        return None;
                    }
                    return Some((len, if self.v4.contains(&ip) { HOME } else { &rest[..len] }));
                }
                Ok(IpAddr::V6(ip)) => return Some((len, self.v6(ip).unwrap_or(&rest[..len]))),
                Err(_) => {}
            }
        }
        None
    }

    /// What to show for an IPv6 address, if it tells a home.
    fn v6(&self, ip: Ipv6Addr) -> Option<&'static str> {
        let segments = ip.segments();
        // IPv4 inside of IPv6, wherever it stands: mapped, NAT64 (RFC 6052), 6to4 (RFC 3056).
        let embeds = |home: &Ipv4Addr| {
            let [a, b, c, d] = home.octets().map(u16::from);
            segments.windows(2).any(|pair| pair == [a << 8 | b, c << 8 | d])
        };
        if self.v6.contains(&ip) || self.v4.iter().any(embeds) {
            Some(HOME)
        } else if self.v6.iter().any(|home| home.segments()[..4] == segments[..4]) {
            Some(NEIGHBOUR)
        } else {
            None
        }
    }
}

/// Whether `text` starts with `form`, whatever the case.
fn starts_with(text: &str, form: &str) -> bool {
    text.get(..form.len()).is_some_and(|start| start.eq_ignore_ascii_case(form))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn masked(text: &str) -> String {
        Mask::new(&["203.0.113.10".parse().unwrap(), "2001:db8:18::10".parse().unwrap()]).apply(text)
    }

    #[test]
    fn hides_every_form_of_home() {
        for (text, shown) in [
            ("203.0.113.10", "[home]"),
            ("from 203.0.113.10:51820.", "from [home]:51820."),
            ("(203.0.113.10)", "([home])"),
            ("ip=203.0.113.10, face:203.0.113.10", "ip=[home], face:[home]"),
            ("203.0.113.10/32", "[home]/32"),
            ("[::ffff:203.0.113.10]:443", "[[home]]:443"),
            ("::FFFF:cb00:710a", "[home]"),
            ("64:ff9b::203.0.113.10 and 2002:cb00:710a::1", "[home] and [home]"),
            ("10.113.0.203.in-addr.arpa.", "[home]."),
            ("host-203-0-113-10.isp.example", "host-[home].isp.example"),
            ("[2001:db8:18::10]:80", "[[home]]:80"),
            ("2001:0DB8:0018:0000:0000:0000:0000:0010", "[home]"),
            ("2001:db8:18:0:0:0:0:10%eth0", "[home]%eth0"),
            ("2001:db8:18::/64 via 2001:db8:18::1", "[home net]/64 via [home net]"),
            ("0.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.1.0.0.8.B.D.0.1.0.0.2.ip6.arpa", "[home]"),
            ("{\"ip\":\"203.0.113.10\"}", "{\"ip\":\"[home]\"}"),
            ("ü203.0.113.10ü", "ü[home]ü"),
        ] {
            assert_eq!(masked(text), shown);
        }
    }

    #[test]
    fn leaves_everything_else_alone() {
        for text in [
            "203.0.113.100 and 1203.0.113.10 and 203.0.113.1",
            "1.203.0.113.10 is no address, nor is 203.0.113.10.5",
            "203-0-113-100",
            "10.113.0.203",
            "2001:db8:180::10 2001:db8:113::10 fd18::10 ::1 ::",
            "at 12:30:45.250, version 1.2.3, cafe::cafe, eth0: up",
            "näh, dead beef. f.f",
        ] {
            assert_eq!(masked(text), text);
        }
    }

    #[test]
    fn reaches_every_text_of_a_report() {
        let mut report = super::super::sample::failing();
        report.each_text(&mut |text, _| text.push_str(" 203.0.113.10"));
        report.redact(&["203.0.113.10".parse().unwrap()]);
        let json = serde_json::to_string(&report).unwrap();
        assert!(!json.contains("203.0.113.10") && json.matches("[home]").count() > 40);
    }

    proptest! {
        #[test]
        fn no_home_survives_among_other_text(before in "\\PC{0,12}[ (=,\"]", after in "[ ),;\"]\\PC{0,12}", a: u32, b: u128) {
            let (v4, v6) = (Ipv4Addr::from(a), Ipv6Addr::from(b));
            let mask = Mask::new(&[v4.into(), v6.into()]);
            for form in [v4.to_string(), v6.to_string(), v4.to_ipv6_mapped().to_string()] {
                let text = mask.apply(&format!("{before}{form}{after}"));
                prop_assert!(text.contains(HOME), "{text:?}");
            }
        }

        #[test]
        fn another_address_survives(a: u32, b: u32) {
            prop_assume!(a != b);
            let text = format!("x {} y", Ipv4Addr::from(b));
            prop_assert_eq!(Mask::new(&[Ipv4Addr::from(a).into()]).apply(&text), text);
        }
    }
}
