//! The page: its style, and the few elements that reports are made of.

use crate::plots::inline;
use std::fmt::Write as _;

/// Text as it stands in HTML, in attributes too.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c if c.is_control() && c != '\n' => escaped.push(char::REPLACEMENT_CHARACTER),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A number with `places` decimals; a dash for none.
pub(super) fn number(value: impl Into<Option<f64>>, places: usize) -> String {
    match value.into() {
        Some(value) => format!("{value:.places$}"),
        None => "\u{2013}".to_owned(),
    }
}

/// A part of 1 as a percentage.
pub(super) fn percent(value: impl Into<Option<f64>>) -> String {
    match value.into() {
        Some(value) => format!("{:.2} %", value * 100.0),
        None => "\u{2013}".to_owned(),
    }
}

/// A value over that of the first run: `1.32x`.
pub(super) fn ratio(value: Option<f64>, first: Option<f64>) -> String {
    match (value, first) {
        (Some(value), Some(first)) if first > 0.0 => format!("{:.2}\u{d7}", value / first),
        _ => "\u{2013}".to_owned(),
    }
}

/// Whether a cell of a table is read as a number, and so stands to the right.
fn is_number(cell: &str) -> bool {
    cell.chars()
        .all(|c| c.is_ascii_digit() || " .-%\u{2013}\u{d7}".contains(c))
}

/// The body of a page as it grows.
#[derive(Debug)]
pub(super) struct Page {
    title: String,
    body: String,
}

impl Page {
    pub(super) fn new(title: &str) -> Self {
        Self {
            title: escape(title),
            body: String::new(),
        }
    }

    /// Adds HTML as it is.
    pub(super) fn raw(&mut self, html: &str) {
        self.body.push_str(html);
        self.body.push('\n');
    }

    /// Says in large where the figures under it come from.
    pub(super) fn band(&mut self, kind: &str, meaning: &str) {
        let class = kind.to_lowercase();
        let (kind, meaning) = (escape(kind), escape(meaning));
        self.raw(&format!(
            "<div class=\"band {class}\"><strong>{kind}</strong><span>{meaning}</span></div>"
        ));
    }

    pub(super) fn heading(&mut self, text: &str) {
        self.raw(&format!("<h2>{}</h2>", escape(text)));
    }

    /// A paragraph below a heading or table, in small.
    pub(super) fn note(&mut self, text: &str) {
        self.raw(&format!("<p class=\"note\">{}</p>", escape(text)));
    }

    /// What limits the meaning of the figures.
    pub(super) fn warnings<T: AsRef<str>>(&mut self, warnings: &[T]) {
        if warnings.is_empty() {
            return;
        }
        let items = warnings
            .iter()
            .map(|warning| format!("<li>{}</li>", escape(warning.as_ref())));
        let items: String = items.collect();
        self.raw(&format!("<ul class=\"warnings\">{items}</ul>"));
    }

    /// Names with their values.
    pub(super) fn facts(&mut self, facts: &[(&str, String)]) {
        let mut html = String::from("<dl class=\"facts\">");
        for (name, value) in facts {
            let _ = write!(
                html,
                "<div><dt>{}</dt><dd>{}</dd></div>",
                escape(name),
                escape(value)
            );
        }
        html.push_str("</dl>");
        self.raw(&html);
    }

    /// The few figures that matter most.
    pub(super) fn tiles(&mut self, tiles: &[(&str, String)]) {
        let mut html = String::from("<div class=\"tiles\">");
        for (name, value) in tiles {
            let _ = write!(
                html,
                "<div><b>{}</b><span>{}</span></div>",
                escape(value),
                escape(name)
            );
        }
        html.push_str("</div>");
        self.raw(&html);
    }

    /// A table; the first column is its rows' names.
    pub(super) fn table(&mut self, head: &[&str], rows: &[Vec<String>]) {
        let mut html = String::from("<div class=\"wide\"><table><thead><tr>");
        let is_text: Vec<bool> = (0..head.len())
            .map(|column| column == 0 || rows.iter().any(|row| !is_number(&row[column])))
            .collect();
        let class = |column: usize| {
            if is_text[column] {
                " class=\"text\""
            } else {
                ""
            }
        };
        for (column, name) in head.iter().enumerate() {
            let _ = write!(html, "<th{}>{}</th>", class(column), escape(name));
        }
        html.push_str("</tr></thead><tbody>");
        for row in rows {
            html.push_str("<tr>");
            for (column, cell) in row.iter().enumerate() {
                let tag = if column == 0 { "th" } else { "td" };
                let _ = write!(html, "<{tag}{}>{}</{tag}>", class(column), escape(cell));
            }
            html.push_str("</tr>");
        }
        html.push_str("</tbody></table></div>");
        self.raw(&html);
    }

    /// Charts beside each other where there is room; those without data are left out.
    pub(super) fn charts(&mut self, charts: &[(&str, Option<String>)]) {
        let mut html = String::new();
        for (title, svg) in charts {
            if let Some(svg) = svg {
                let _ = write!(
                    html,
                    "<figure><figcaption>{}</figcaption>{svg}</figure>",
                    escape(title)
                );
            }
        }
        if !html.is_empty() {
            self.raw(&format!("<div class=\"charts\">{html}</div>"));
        }
    }

    /// A part that is opened by a click.
    pub(super) fn folded(&mut self, title: &str, fill: impl FnOnce(&mut Self)) {
        self.raw(&format!("<details><summary>{}</summary>", escape(title)));
        fill(self);
        self.raw("</details>");
    }

    pub(super) fn finish(self) -> String {
        let (light, dark) = inline::properties();
        let Self { title, body } = self;
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
             style-src 'unsafe-inline'\">\n\
             <title>{title} \u{b7} Fugato</title>\n<style>\n\
             :root{{{light}}}\n@media (prefers-color-scheme:dark){{:root{{{dark}}}}}\n{STYLE}</style>\n\
             </head>\n<body>\n<main>\n<header><p>Fugato report</p><h1>{title}</h1></header>\n\
             {body}</main>\n</body>\n</html>\n"
        )
    }
}

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#22252b;--grey:#5f6673;--faint:#e5e7eb;--paper:#fff;
--ground:#f6f7f9;--accent:#197487;--alarm:#c0304a}
@media (prefers-color-scheme:dark){:root{--ink:#e8eaee;--grey:#a2a9b6;--faint:#343944;
--paper:#1c1f26;--ground:#14161b;--accent:#62b0bb;--alarm:#f08a9b}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);
font:16px/1.5 Inter,system-ui,Helvetica,Arial,'DejaVu Sans',sans-serif}
main{max-width:1240px;margin:0 auto;padding:28px 24px 64px}
header p{margin:0;color:var(--grey);font-size:14px}
h1{margin:0 0 18px;font-size:30px;line-height:1.2;overflow-wrap:anywhere}
h2{margin:34px 0 10px;font-size:20px}
.band{display:flex;flex-wrap:wrap;align-items:baseline;gap:4px 14px;padding:12px 18px;
border-radius:8px;color:#fff;background:#197487;margin:26px 0 18px}
.band.simulated{background:#b02a45}
.band strong{font-size:26px;letter-spacing:.06em}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px}
.tiles div{background:var(--paper);border:1px solid var(--faint);border-radius:8px;padding:12px 16px}
.tiles b{display:block;font-size:25px;font-weight:600;font-variant-numeric:tabular-nums}
.tiles span,.note{color:var(--grey);font-size:14px}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(300px,1fr));gap:8px 28px;margin:0}
.facts div{display:flex;gap:10px}
.facts div:first-child{grid-column:1/-1}
dt{color:var(--grey);flex:0 0 120px}
dd{margin:0;min-width:0;overflow-wrap:anywhere}
.warnings{margin:16px 0;padding:12px 18px 12px 36px;border-left:4px solid var(--alarm);
background:var(--paper);border-radius:0 8px 8px 0}
.wide{overflow-x:auto;background:var(--paper);border:1px solid var(--faint);border-radius:8px}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:15px}
th,td{padding:7px 9px;text-align:right;white-space:nowrap}
th:first-child{padding-left:16px}
.text{text-align:left}
th:last-child,td:last-child{padding-right:16px}
td.text,tbody th{white-space:normal;overflow-wrap:anywhere;min-width:8em}
thead th{color:var(--grey);font-weight:500;border-bottom:1px solid var(--faint)}
tbody th{font-weight:600}
tbody tr+tr>*{border-top:1px solid var(--faint)}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,500px),1fr));gap:16px;
margin-top:16px}
figure{margin:0;padding:14px 16px;background:var(--paper);border:1px solid var(--faint);
border-radius:8px;overflow-x:auto}
figcaption{font-weight:600;margin-bottom:6px}
figure svg{display:block;width:100%;height:auto;min-width:440px}
details{margin:14px 0;padding:10px 16px;background:var(--ground);border:1px solid var(--faint);
border-radius:8px}
summary{cursor:pointer;font-weight:600;overflow-wrap:anywhere}
@media (max-width:560px){main{padding:16px 12px 40px}h1{font-size:24px}.band strong{font-size:22px}
.facts div{flex-direction:column;gap:0}dt{flex:none;font-size:14px}}
@media print{body{background:#fff}figure,.wide,.tiles div{break-inside:avoid}}
";
