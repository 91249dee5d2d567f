//! Why a report could not be rendered.

/// A report that a format cannot carry.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// serde refuses it.
    #[error("write the report as JSON")]
    Json(#[source] serde_json::Error),
    /// The XML writer refuses it.
    #[error("write the report as JUnit XML")]
    Junit(#[source] quick_junit::SerializeError),
    /// The template refuses it.
    #[error("write the report as HTML")]
    Html(#[source] askama::Error),
}
