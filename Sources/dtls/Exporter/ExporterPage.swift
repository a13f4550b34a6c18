import ControlProtocol
import LinuxSystem
import Primitives

/// The page for people, and the data that it asks for.
enum ExporterPage {
    static let page = HTTPResponse(
        type: "text/html; charset=utf-8", headers: [("Content-Security-Policy", policy)], body: Array(html.utf8))
    static let style = HTTPResponse(type: "text/css; charset=utf-8", body: Array(css.utf8))
    static let script = HTTPResponse(type: "text/javascript; charset=utf-8", body: Array(javaScript.utf8))
    static let icon = HTTPResponse(type: "image/svg+xml", body: Array(svg.utf8))

    /// Nothing from elsewhere, nothing inline, and no frame around it.
    private static let policy =
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none';"
        + " form-action 'none'; frame-ancestors 'none'"

    private static let svg = """
        <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" rx="3" fill="#1c6dd0"/>\
        <path d="M2 9h3l2-5 3 9 2-4h2" fill="none" stroke="#fff" stroke-width="1.6"/></svg>
        """

    /// The state of the daemon as JSON.
    static func data(_ state: DaemonState) -> HTTPResponse { json(PageData(state, now: .now())) }

    /// The last minutes as a JSON array, the oldest sample first.
    static func history(_ recent: RecentSamples) -> HTTPResponse { json(recent.samples) }

    private static func json(_ value: some Encodable) -> HTTPResponse {
        do {
            return HTTPResponse(type: "application/json", body: try ControlProtocol.encode(value))
        } catch {
            return HTTPResponse(status: 500, "The daemon's state cannot be written as JSON.")
        }
    }
}

/// What `/status.json` says.
struct PageData: Encodable {
    let nowAt: String
    let isUp: Bool
    /// By a clock that nobody sets: rates are differences over those of this.
    let clockSeconds: Double
    /// What the daemon has answered, without the addresses that are traced: those are its clients'.
    var status: StatusResult?
    var awaySinceAt: String?
    var lastAnswerAt: String?
    var reason: String?

    init(_ state: DaemonState, now: UnixTime) {
        nowAt = Timestamp.text(now)
        isUp = state.answer != nil
        clockSeconds = Double(Instant.now().nanoseconds) / 1e9
        switch state {
        case .unasked: break
        case .answering(let answer, _):
            status = answer.status
            status?.traces = []
        case .away(let since, let last, let reason):
            awaySinceAt = Timestamp.text(since)
            lastAnswerAt = last.map(Timestamp.text)
            self.reason = reason
        }
    }

    private enum CodingKeys: String, CodingKey {
        case nowAt = "now_at"
        case isUp = "up"
        case clockSeconds = "clock_seconds"
        case status
        case awaySinceAt = "away_since_at"
        case lastAnswerAt = "last_answer_at"
        case reason
    }
}
