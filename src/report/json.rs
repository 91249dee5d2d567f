//! `--format json` and `report.json`: the report itself, see `model::report` for its shape.

use super::{Format, Look, ReportError};
use crate::model::report::Report;

pub(super) const FORMAT: Format =
    Format { name: "json", file: "report.json", about: "for programs; `report.schema.json` is its schema", render };

fn render(report: &Report, _look: &Look) -> Result<String, ReportError> {
    let mut text = serde_json::to_string_pretty(report).map_err(ReportError::Json)?;
    text.push('\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::super::{Look, sample};
    use super::*;

    #[test]
    fn reads_back_as_the_same_report() {
        let report = sample::failing();
        let text = FORMAT.render(&report, &Look::PLAIN).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    }

    /// `SNAPSHOTS=overwrite cargo test --lib report` writes it anew; within version 1 it may only gain.
    #[test]
    fn the_schema_is_that_of_the_types() {
        let schema = serde_json::to_string_pretty(&schemars::schema_for!(Report)).unwrap() + "\n";
        snapbox::assert_data_eq!(schema, snapbox::file!["../../reports/report.schema.json"].raw());
    }

    #[test]
    fn looks_as_it_does() {
        let text = FORMAT.render(&sample::failing(), &Look::PLAIN).unwrap();
        snapbox::assert_data_eq!(text, snapbox::file!["../../fixtures/report/failing.json"].raw());
    }

    #[test]
    fn has_the_fields_of_the_contract() {
        let text = FORMAT.render(&sample::failing(), &Look::PLAIN).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let has = |value: &serde_json::Value, keys: &str| {
            for key in keys.split(' ') {
                assert!(value.get(key).is_some(), "{key} is missing in {value}");
            }
        };
        has(&json, "version tool target started duration_ms verdict exit_status probes wire outages summary");
        has(&json["probes"][0], "id group title phase verdict kind summary reason duration_ms evidence");
        has(&json["probes"][0]["evidence"][0], "at_ms what");
        has(&json["wire"], "links packets dropped leaks");
        has(&json["wire"]["leaks"][0], "at_ms link proto src dst count probe");
        has(&json["outages"][0], "method down_ms blackhole_ms up_ms recovered_ms holes restored");
        has(&json["outages"][0]["holes"][0], "from_ms to_ms proto packets");
        has(&json["summary"], "pass fail warn inconclusive skip");
        assert_eq!((&json["version"], &json["verdict"]), (&1.into(), &"fail".into()));
    }
}
