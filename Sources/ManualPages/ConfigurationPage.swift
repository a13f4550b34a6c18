import DTLSDaemon

/// dtlsd.toml(5). The schema says which keys there are, their types and their defaults; `reference` has the explanations.
func configurationPage(_ reference: ReferenceFile, date: DocumentDate) -> MdocPage {
    var page = MdocPage(name: "dtlsd.toml", section: 5, summary: "the configuration of dtlsd", date: date)
    page.macro("Sh", "DESCRIPTION")
    // The first paragraph names the file, and the second says how settings in it are commented out.
    page.prose(reference.header)
    page.request("Pp")
    page.prose([
        "The settings below each key are examples. A type in parentheses says what is read; all else is an error, which "
            + "`dtlsd --check` names with line and key."
    ])
    for section in ConfigurationManual.sections {
        let path = section.path.joined(separator: ".")
        page.macro("Sh", section.path.isEmpty ? "BEFORE THE FIRST TABLE" : section.title)
        if let text = reference.tables[path] { page.prose(text) }
        let keys = section.keys.filter { !$0.isTable }
        guard !keys.isEmpty else { continue }
        page.request("Bl -tag -width Ds")
        for (index, key) in keys.enumerated() {
            page.macro("It", "`\(key.name)` (\(key.type))")
            guard let explanation = reference.keys[path]?[key.name] else {
                page.prose([key.documentation] + (key.defaultText.map { ["Default: \($0)"] } ?? []))
                continue
            }
            // Several keys in a row have one explanation, which follows the last of them.
            let next = index + 1 < keys.count ? reference.keys[path]?[keys[index + 1].name] : nil
            page.prose(next?.line == explanation.line ? [key.documentation] : explanation.text)
            page.prose(["  " + explanation.example])
        }
        page.request("El")
    }
    page.macro("Sh", "FILES")
    page.request("Bl -tag -width Ds -compact")
    for (file, text) in [
        ("/etc/dtlsd/dtlsd.toml", "The configuration that dtlsd.service reads."),
        ("/usr/share/doc/dtlsd/examples", "Configurations for CoAP, RADIUS, syslog, DNS and others."),
    ] {
        page.request("It Pa " + MdocPage.argument(file))
        page.prose([text])
    }
    page.request("El")
    page.macro("Sh", "SEE ALSO")
    page.request("Xr dtls 1 ,")
    page.request("Xr systemd.exec 5 ,")
    page.request("Xr dtlsd 8")
    return page
}
