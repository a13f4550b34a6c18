import ArgumentParser
import CLinux
import ControlProtocol
import Glibc
import LinuxSystem
import Primitives

struct ExporterCommand: OperatingCommand {
    static let configuration = CommandConfiguration(
        commandName: "exporter",
        abstract: "Serve what dtlsd counts to Prometheus, and show it to people on a page.",
        discussion: """
            It runs until it is told to end. At /metrics is OpenMetrics, or Prometheus' text format for who does not ask \
            for that; at / is a page for a browser. Anybody who can reach the address can read both.
            """)

    @Option(
        help: ArgumentHelp("Where to listen for HTTP: a numeric address and a port.", valueName: "address:port"))
    // The port is that of CoAP over DTLS, and 4,000.
    var listen = "127.0.0.1:9684"
    @OptionGroup var control: ControlOptions

    func validate() throws {
        guard SocketAddress(listen) != nil else {
            throw ValidationError(
                "--listen \(listen) is no numeric address with a port, such as 127.0.0.1:9684 or [::1]:9684.")
        }
    }

    func operate(_ console: Console) throws(ToolFailure) {
        guard let address = SocketAddress(listen) else { return }
        // The kernel tells of a client that has gone by the result of a write.
        signal(SIGPIPE, SIG_IGN)
        let signals: SignalSource
        do throws(SystemError) {
            signals = try SignalSource([SIGTERM, SIGINT, SIGHUP])
        } catch {
            throw ToolFailure(.failed, "\(error)")
        }
        let exporter = Exporter(DaemonWatch(path: control.path))
        let server = try HTTPServer(on: address) { exporter.answer($0) }
        console.note(
            "dtls: The exporter serves http://\(server.address)/, and metrics at http://\(server.address)/metrics.")
        while true {
            let now = Instant.now()
            let patience = min(server.patience(at: now), exporter.patience(at: now))
            var polls = [signals.descriptor.rawValue, server.descriptor, exporter.watch.descriptor].map {
                pollfd(fd: $0, events: Int16(POLLIN), revents: 0)
            }
            _ = poll(&polls, nfds_t(polls.count), Int32(clamping: patience.milliseconds + (patience > .zero ? 1 : 0)))
            if let signal = try? signals.next(), signal > 0 { break }
            server.run(at: .now())
            exporter.renew(at: .now()) { server.resume(at: .now()) }
        }
        server.stop()
    }
}

/// What is at which path.
final class Exporter {
    private(set) var watch: DaemonWatch
    private(set) var recent = RecentSamples()
    /// Whether requests that are asked for an answer now can be told the state of the daemon.
    private var isCurrent = false

    init(_ watch: DaemonWatch) { self.watch = watch }

    /// How long ``renew(at:_:)`` need not be called while the watch's descriptor is not readable.
    func patience(at now: Instant) -> Duration {
        watch.isBusy ? watch.patience(at: now) : min(watch.patience(at: now), max(.zero, recent.nextAt - now))
    }

    /// Goes on with what is asked of the daemon, and asks it for the next sample when it is time.
    /// - Parameter resume: called when requests whose answer was not known can be answered. It asks for their answers.
    func renew(at now: Instant, _ resume: () -> Void) {
        if now >= recent.nextAt { watch.want() }
        guard watch.run(at: now) else { return }
        recent.note(watch.state, at: now)
        isCurrent = true
        resume()
        isCurrent = false
    }

    /// - Returns: `nil` while the daemon has not answered yet.
    func answer(_ request: HTTPRequest) -> HTTPResponse? {
        switch request.path {
        case "/": return ExporterPage.page
        case "/page.css": return ExporterPage.style
        case "/page.js": return ExporterPage.script
        case "/icon.svg": return ExporterPage.icon
        case "/history.json": return ExporterPage.history(recent)
        case "/metrics", "/status.json":
            guard isCurrent else {
                watch.want()
                return nil
            }
            if request.path == "/status.json" { return ExporterPage.data(watch.state) }
            let format = MetricsDocument.Format(accept: request.accept)
            return HTTPResponse(
                type: format.contentType, headers: [("Vary", "Accept")],
                body: Array(MetricsDocument(watch.state.answer).text(format).utf8))
        default: return HTTPResponse(status: 404, "There is nothing here. Metrics are at /metrics, and a page is at /.")
        }
    }
}
