import ArgumentParser
import DTLSKit
import Glibc
import LinuxSystem
import Primitives

/// `dtls probe`: one question of a monitor.
struct ProbeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "probe",
        abstract: "Check a DTLS server for a monitor: one handshake, one line, one exit status.",
        discussion: """
            The line and the exit status (0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN) are those of Nagios' plug-ins, which Icinga, \
            Naemon, Checkmk and Sensu take too. A server that cannot be reached, whose certificate is refused, or that does not \
            answer as expected is CRITICAL; a failure on this machine is UNKNOWN.
            """
    )

    @Argument(help: ArgumentHelp("The server.", valueName: "host:port"))
    var destination: Destination

    @OptionGroup var client: ClientOptions

    @Option(
        help: ArgumentHelp(
            "Send this text as a message after the handshake, and wait for an answer.", valueName: "text"))
    var send: String?

    @Option(help: ArgumentHelp("The answer must match this regular expression somewhere.", valueName: "pattern"))
    var expect: String?

    @Option(
        name: [.customShort("w"), .long],
        help: ArgumentHelp("WARNING when handshake and answer take longer than so many seconds.", valueName: "seconds"))
    var warning: Double?

    @Option(
        name: [.customShort("c"), .long],
        help: ArgumentHelp("CRITICAL when they take longer than so many seconds.", valueName: "seconds"))
    var critical: Double?

    @Option(
        help: ArgumentHelp(
            "WARNING and CRITICAL when the server's certificate expires in fewer than so many days: 30,7.",
            valueName: "warning,critical"))
    var expireDays: ExpiryDays?

    func validate() throws {
        if let warning, let critical, warning > critical {
            throw ValidationError("--warning must not be above --critical.")
        }
    }

    func run() throws {
        let result = probe()
        Standard.output(result.line + "\n")
        throw ExitCode(result.state.rawValue)
    }

    private func probe() -> ProbeResult {
        do throws(TalkingFailure) {
            let pattern = try expectation()
            let option = try client.dtlsOption(for: destination)
            return try probe(option, pattern)
        } catch {
            return result(of: error)
        }
    }

    private func expectation() throws(TalkingFailure) -> Regex<AnyRegexOutput>? {
        guard let expect else { return nil }
        do { return try Regex(expect) } catch {
            throw .local("--expect \(Printable.quoted(expect)) is no regular expression: \(error)")
        }
    }

    private func result(of failure: TalkingFailure) -> ProbeResult {
        let isLocal =
            switch failure {
            case .local, .interrupted: true
            default: false
            }
        return ProbeResult(
            state: isLocal ? .unknown : .critical, text: "\(destination.description): \(failure.message)")
    }

    private func probe(_ option: DtlsClientOption, _ pattern: Regex<AnyRegexOutput>?) throws(TalkingFailure)
        -> ProbeResult
    {
        let addresses = try destination.resolve()
        let started = Instant.now()
        let connection = try Dialer(destination: destination, option: option, patience: client.patience).dial(addresses)
        defer { connection.close() }
        guard let report = ServerReport(connection, destination, option) else {
            throw .handshake("the server has closed the connection at once", hint: nil)
        }
        var result = ProbeResult(
            state: .ok, text: "\(destination.description) \(report.agreement.version) \(report.agreement.cipher)")
        if send != nil || pattern != nil { try ask(connection, pattern, deadline: started + client.patience, &result) }
        let seconds = (Instant.now() - started).inSeconds
        judge(seconds: seconds, &result)
        if let certificate = report.certificate { judge(certificate, &result) }
        result.data.append(.init(name: "retransmissions", value: "\(report.retransmissions)"))
        return result
    }

    /// Sends what is to be sent, and adds the time until the expected answer.
    private func ask(
        _ connection: DtlsConnection, _ pattern: Regex<AnyRegexOutput>?, deadline: Instant, _ result: inout ProbeResult
    ) throws(TalkingFailure) {
        let started = Instant.now()
        var buffer = [UInt8](repeating: 0, count: 16_384)
        var last: String?
        do throws(DtlsError) {
            if let send { try connection.send(send) }
            while true {
                let left = (deadline - Instant.now()).milliseconds
                let count = left > 0 ? try connection.recv(&buffer, timeout: left) : 0
                guard count > 0 else { break }
                let answer = String(decoding: buffer[..<count], as: UTF8.self)
                if pattern.map({ answer.firstMatch(of: $0) != nil }) ?? true {
                    let duration = (Instant.now() - started).inSeconds
                    result.text += ", answered"
                    result.data.append(.init(name: "answer", value: duration.text(digits: 6), unit: "s"))
                    return
                }
                last = answer
            }
        } catch {
            throw TalkingFailure(transfer: error)
        }
        let found = last.map { "the answer \(Printable.quoted($0, limit: 60)) does not match" } ?? "there was no answer"
        throw .transfer(
            "\(found) within \(client.patience.text)\(expect.map { ", and \(Printable.quoted($0, limit: 60)) was expected" } ?? "")",
            hint: nil)
    }

    private func judge(seconds: Double, _ result: inout ProbeResult) {
        let limits = ProbeLimits(warning: warning, critical: critical)
        let state = limits.state(above: seconds)
        if state > .ok { result.text += ", took \(seconds.text(digits: 3)) s" }
        result.state = max(result.state, state)
        result.data.insert(
            .init(
                name: "time", value: seconds.text(digits: 6), unit: "s", warning: ProbeLimits.text(warning),
                critical: ProbeLimits.text(critical)), at: 0)
    }

    private func judge(_ certificate: DtlsCertificate, _ result: inout ProbeResult) {
        let end = CalendarDate(seconds: certificate.notAfter)
        let days = end.daysLeft()
        result.text +=
            days < 0
            ? ", certificate expired on \(end)" : ", certificate valid for \(counted(days, "day")), until \(end)"
        let limits = ProbeLimits(
            warning: expireDays.map { Double($0.warning) }, critical: expireDays.map { Double($0.critical) })
        result.state = max(result.state, limits.state(below: Double(days)))
        result.data.append(
            .init(
                name: "days", value: "\(days)", warning: ProbeLimits.text(limits.warning),
                critical: ProbeLimits.text(limits.critical)))
    }
}

extension ProbeCommand {
    /// Ends the process with UNKNOWN, and says why in the line that a monitor shows, where the arguments are wrong and are
    /// this command's.
    static func endIfMisused(_ error: any Error, _ arguments: [String]) {
        guard arguments.dropFirst().first == configuration.commandName else { return }
        let text = DTLSTool.message(for: error)
        Standard.output(ProbeResult(state: .unknown, text: text).line + "\n")
        Glibc.exit(ProbeResult.State.unknown.rawValue)
    }
}

extension ExpiryDays: ExpressibleByArgument {
    init?(argument: String) { self.init(argument) }
}
