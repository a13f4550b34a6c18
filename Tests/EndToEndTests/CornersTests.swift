import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEndCrowds {
    /// What a network, or somebody who forges datagrams, does to the handshakes of real clients.
    @Suite struct CornersTests {
        let folder: TestFolder
        let identity: Identity
        let address: SocketAddress

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server", kind: .rsa)
            address = try SocketAddress.freeOnOwnLoopback()
        }

        enum Fault: String, CaseIterable {
            /// The client's CertificateKeyExchange, ChangeCipherSpec and Finished, the first time.
            case clientsLastFlightIsLost
            /// The server's ChangeCipherSpec and Finished, the first time.
            case serversLastFlightIsLost
            case everythingComesTwice
            /// With each datagram comes all that its side has sent before.
            case everythingIsReplayed
            /// Before each of the client's datagrams come alerts in its name: fatal, and close_notify, in plain text
            /// and in what looks like epoch 1. (OpenSSL and GnuTLS themselves believe the former.)
            case forgedAlerts
            /// The client's first hello is answered with a cookie that the daemon does not know.
            case cookieOfAnother
            /// Datagrams of more than 600 bytes vanish.
            case narrowPath

            /// The relay's work; `sent` is what each side has sent so far.
            func replace(
                _ direction: Relay.Direction, _ number: Int, _ bytes: [UInt8], sent: [[UInt8]]
            ) -> [Relay.Passed] {
                let datagram = Relay.Passed(direction: direction, bytes: bytes)
                switch self {
                case .clientsLastFlightIsLost:
                    return direction == .toServer && number == 2 ? [] : [datagram]
                case .serversLastFlightIsLost:
                    let isFirst = !sent.dropLast().contains { Self.endsHandshake($0) }
                    return direction == .toClient && Self.endsHandshake(bytes) && isFirst ? [] : [datagram]
                case .everythingComesTwice: return [datagram, datagram]
                case .everythingIsReplayed: return sent.map { Relay.Passed(direction: direction, bytes: $0) }
                case .forgedAlerts:
                    if direction == .toClient { return [datagram] }
                    return Self.alerts.map { Relay.Passed(direction: .toServer, bytes: $0) } + [datagram]
                case .cookieOfAnother:
                    guard direction == .toServer, number == 0 else { return [datagram] }
                    return [Relay.Passed(direction: .toClient, bytes: Self.helloVerifyRequest(answering: bytes))]
                case .narrowPath: return bytes.count > 600 ? [] : [datagram]
                }
            }

            /// A session ticket, ChangeCipherSpec and Finished: the last record is of epoch 1, and no application data.
            static func endsHandshake(_ datagram: [UInt8]) -> Bool {
                var record = 0
                while record + 13 <= datagram.count {
                    if datagram[record] == 22, datagram[record + 4] == 1 { return true }
                    record += 13 + Int(datagram[record + 11]) << 8 + Int(datagram[record + 12])
                }
                return false
            }

            static let alerts: [[UInt8]] = [[2, 40], [1, 0], [1, 90]].flatMap { alert in
                [0, 1].map { [21, 0xfe, 0xfd, 0, $0, 0, 0, 0, 0, 1, UInt8.random(in: 100...255), 0, 2] + alert }
            }

            private static func helloVerifyRequest(answering hello: [UInt8]) -> [UInt8] {
                [22, 0xfe, 0xff] + hello[3..<11] + [0, 47, 3, 0, 0, 35, 0, 0, 0, 0, 0, 0, 0, 35, 0xfe, 0xff, 32]
                    + [UInt8](repeating: 7, count: 32)
            }
        }

        private func relay(_ fault: Fault) throws -> Relay {
            let history = History()
            return try Relay(to: address) { direction, number, bytes in
                fault.replace(direction, number, bytes, sent: history.adding(bytes, direction))
            }
        }

        /// Of one relay's thread.
        private final class History: @unchecked Sendable {
            private var sent: [Relay.Direction: [[UInt8]]] = [:]

            func adding(_ bytes: [UInt8], _ direction: Relay.Direction) -> [[UInt8]] {
                sent[direction, default: []].append(bytes)
                return sent[direction] ?? []
            }
        }

        /// Each client gets one connection, which serves it and ends when it leaves.
        @Test func `OpenSSL connects whatever the network does to its datagrams`() async throws {
            let daemon = try await Daemon.start(Service(listen: [address], identity: identity).text, in: folder)
            let sockets = daemon.workersSockets
            var clients: [(fault: Fault, client: SecureClient, relay: Relay)] = []
            for fault in Fault.allCases {
                let relay = try relay(fault)
                let client = try SecureClient(to: relay.address, trust: identity.certificate, in: folder)
                client.say("\(fault)")
                clients.append((fault, client, relay))
            }
            for (fault, client, _) in clients {
                try await client.hears("\(fault)")
                try await client.exchange("again")
            }
            #expect(daemon.lines(with: "connection opened").count == clients.count)
            #expect(daemon.lines(with: "connection closed").isEmpty)
            try await clients.map(\.client).leave()
            try await daemon.logged("connection closed: closed by the peer", count: clients.count)
            try await eventually("all sockets are closed") { daemon.workersSockets == sockets }
            try await daemon.stop()
        }

        @Test func `GnuTLS connects whatever the network does to its datagrams`() async throws {
            let daemon = try await Daemon.start(Service(listen: [address], identity: identity).text, in: folder)
            var clients: [(fault: Fault, client: Program, relay: Relay)] = []
            for fault in Fault.allCases {
                let relay = try relay(fault)
                let host = "\(relay.address)".split(separator: ":")[0]
                let client = try Program(
                    ["gnutls-cli", "--udp", "--insecure", "--port", "\(relay.address.port)", "\(host)"], in: folder)
                client.send("\(fault)\n")
                clients.append((fault, client, relay))
            }
            for (fault, client, _) in clients {
                try await eventually("gnutls-cli hears '\(fault)'", details: client.output + daemon.program.errors) {
                    client.output.contains("\n\(fault)\n")
                }
            }
            #expect(daemon.lines(with: "connection opened").count == clients.count)
            for (_, client, _) in clients { client.closeInput() }
            try await daemon.logged("connection closed", count: clients.count)
            try await daemon.stop()
        }

        /// Hellos of many kilobytes, in few fragments or in many.
        @Test func `ClientHellos of several fragments are served`() async throws {
            let daemon = try await Daemon.start(Service(listen: [address], identity: identity).text, in: folder)
            let names = (0..<300).map { "protocol-\($0)-of-three-hundred" }
            var clients: [SecureClient] = []
            for mtu in ["256", "600", "1400"] {
                let options = ["-mtu", mtu, "-alpn", names.joined(separator: ",")]
                let client = try SecureClient(to: address, trust: identity.certificate, in: folder, options)
                client.say("mtu \(mtu)")
                clients.append(client)
            }
            let host = "\(address)".split(separator: ":")[0]
            var arguments = ["gnutls-cli", "--udp", "--insecure", "--port", "\(address.port)", "--mtu", "300"]
            for name in names.prefix(7) { arguments += ["--alpn", name] }
            let gnutls = try Program(arguments + ["\(host)"], in: folder)
            gnutls.send("a large hello\n")
            for (client, mtu) in zip(clients, ["256", "600", "1400"]) { try await client.hears("mtu \(mtu)") }
            try await eventually("gnutls-cli hears", details: gnutls.output + gnutls.errors + daemon.program.errors) {
                gnutls.output.contains("\na large hello\n")
            }
            try await daemon.stop()
        }

        /// A client whose goodbye is lost: its connection ends with its idle time, and nothing is left.
        @Test func `a connection whose close_notify is lost ends by its timeout`() async throws {
            let daemon = try await Daemon.start(
                Service(listen: [address], identity: identity, more: "idle_timeout = 3").text, in: folder)
            let sockets = daemon.workersSockets
            let relay = try Relay(to: address) { direction, _, bytes in
                direction == .toServer && bytes[0] == 21 ? [] : [Relay.Passed(direction: direction, bytes: bytes)]
            }
            let client = try SecureClient(to: relay.address, trust: identity.certificate, in: folder)
            try await client.exchange("goodbye")
            try await client.leave()
            try await daemon.logged("connection closed: idle")
            try await eventually("its socket is closed") { daemon.workersSockets == sockets }
            try await daemon.stop()
        }
    }
}
