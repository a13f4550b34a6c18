import DTLSKit
import Glibc
import LinuxSystem
import Primitives

/// Does a client's handshake with the first address that answers, on the calling thread's loop.
struct Dialer {
    let destination: Destination
    let option: DtlsClientOption
    /// For all addresses together.
    let patience: Duration
    /// Asked now and then; true gives up.
    var isCancelled: () -> Bool = { false }

    /// What has become of one address.
    private enum Outcome {
        case pending
        case done
        case failed(DtlsError)
    }

    private final class Attempt {
        var outcome = Outcome.pending
    }

    /// How often the network must refuse before it is believed: anybody can forge one ICMP message, and a server may be
    /// starting. The hello is sent again after a quarter of a second, so the second refusal is there by then.
    private static let refusalsBelieved = 2
    private static let interval = 50

    func dial(_ addresses: [DtlsAddress]) throws(TalkingFailure) -> DtlsConnection {
        let deadline = Instant.now() + patience
        var last = TalkingFailure.local("\(destination.description) has no address")
        for (index, address) in addresses.enumerated() {
            let isLast = index == addresses.count - 1
            let left = deadline - Instant.now()
            // The others get a part of the time each.
            let share = isLast ? left : .nanoseconds(left.nanoseconds / Int64(addresses.count - index))
            do throws(TalkingFailure) {
                return try dial(address, patience: share, isLast: isLast)
            } catch {
                guard case .noAnswer = error else { throw error }
                last = error
            }
        }
        throw last
    }

    private func dial(_ address: DtlsAddress, patience: Duration, isLast: Bool) throws(TalkingFailure) -> DtlsConnection
    {
        let started = Instant.now()
        let attempt = Attempt()
        let connection: DtlsConnection
        do throws(DtlsError) {
            // The library's own timeout believes an alert that it has held back, since anybody could have forged it.
            connection = try Dtls.createClient(option, address, timeout: max(1, patience.milliseconds)) { result, _ in
                switch result {
                case .success: attempt.outcome = .done
                case .failure(let error): attempt.outcome = .failed(error)
                }
            }
        } catch {
            throw failure(ofStart: error, address)
        }
        var refusals = 0
        var lastError: Int32 = 0
        while true {
            try turn()
            switch attempt.outcome {
            case .done: return connection
            case .failed(.timedOut(_, let errno)), .failed(.system("connect", _, let errno)):
                throw silence(
                    address, connection.roundTrips, waited: Instant.now() - started,
                    errno: errno == 0 ? lastError : errno)
            case .failed(let error): throw failure(error, connection)
            case .pending: break
            }
            if isCancelled() {
                connection.close()
                throw .interrupted
            }
            let errno = connection.error()
            if errno != 0 {
                lastError = errno
                refusals += 1
            }
            if refusals >= (isLast ? Self.refusalsBelieved : 1) {
                let trips = connection.roundTrips
                connection.close()
                throw silence(address, trips, waited: Instant.now() - started, errno: lastError)
            }
        }
    }

    private func turn() throws(TalkingFailure) {
        do throws(DtlsError) { try iosched.poll(timeout: Self.interval) } catch { throw .local(error) }
    }

    private func failure(ofStart error: DtlsError, _ address: DtlsAddress) -> TalkingFailure {
        switch error {
        case .system(_, _, let errno)
        where [ENETUNREACH, EHOSTUNREACH, EADDRNOTAVAIL, ECONNREFUSED, EAFNOSUPPORT].contains(errno):
            .noAnswer(.init(address: address.description, waited: .zero, retransmissions: 0, errno: errno))
        default: .local(error)
        }
    }

    private func silence(
        _ address: DtlsAddress, _ trips: [DtlsRoundTrip], waited: Duration, errno: Int32
    ) -> TalkingFailure {
        guard let last = trips.last, trips.count > 1 else {
            return .noAnswer(
                .init(
                    address: address.description, waited: waited, retransmissions: trips.first?.retransmissions ?? 0,
                    errno: errno))
        }
        let again = "sent \(last.retransmissions + 1) times in \(waited.text)"
        switch last.flight {
        case .hello, .helloWithCookie:
            return .handshake(
                "\(address) has asked for a cookie and then said nothing more; the hello with it was \(again)",
                hint:
                    "The server's answer is large, and large packets may be lost on the way: --mtu 600 asks for smaller"
                    + " ones. Or the server refuses this client: its log says why.")
        case .keyExchange where option.presharedKey != nil:
            return .handshake(
                "\(address) does not answer the key exchange, which was \(again)",
                hint:
                    "With another key under the same identity a server cannot read what comes, and must not answer: compare"
                    + " the keys (--psk, --psk-file).")
        case .keyExchange:
            return .handshake(
                "\(address) does not answer the key exchange, which was \(again)",
                hint:
                    "Packets of the handshake may be lost on the way: --mtu 600 makes them smaller. The server's log may say"
                    + " more.")
        }
    }

    private func failure(_ error: DtlsError, _ connection: DtlsConnection) -> TalkingFailure {
        let certificate = connection.serverCertificate
        switch error {
        case .handshake(let reason, let fault?):
            let who = certificate.map { " \"\(TerminalText.printable($0.subject))\"" } ?? ""
            guard option.rejectUnauthorized, option.presharedKey == nil else {
                return .handshake("the handshake failed: \(reason): \(fault)", hint: HandshakeHints.hint(for: reason))
            }
            return .verification(
                "the certificate\(who) of \(connection.remote) was refused: \(fault)",
                hint: HandshakeHints.hint(
                    forCertificate: fault, certificate, name: TerminalText.printable(option.server ?? "")))
        case .handshake(let reason, nil):
            return .handshake("the handshake failed: \(reason)", hint: HandshakeHints.hint(for: reason))
        case .closed:
            return .handshake("the server has ended the handshake", hint: "Its log may say why.")
        default:
            return .handshake(error.description, hint: nil)
        }
    }
}
