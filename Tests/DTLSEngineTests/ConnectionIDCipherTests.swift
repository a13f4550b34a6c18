import Primitives
import TestSupport
import Testing

@testable import DTLSEngine

/// Connection IDs that can be routed by who has the key.
@Suite struct ConnectionIDCipherTests {
    struct Vector: Sendable, CustomTestStringConvertible {
        let configuration: UInt8
        let key: String
        let serverID: String
        let nonce: String
        let connectionID: String

        init(_ configuration: UInt8, _ key: String, _ serverID: String, _ nonce: String, _ connectionID: String) {
            (self.configuration, self.key, self.serverID) = (configuration, key, serverID)
            (self.nonce, self.connectionID) = (nonce, connectionID)
        }

        var testDescription: String { connectionID }

        private static let key = "8f95f09245765f80256934e50c66207f"

        /// draft-ietf-quic-load-balancers-21, section 5.4.2.4 and appendix B.2.
        static let published = [
            Vector(0, "fdf726a9893ec05c0632d3956680baf0", "31441a", "9c69c275", "0767947d29be054a"),
            Vector(0, key, "ed793a", "ee080dbf", "0720b1d07b359d3c"),
            Vector(1, key, "ed793a51d49b8f5fab65", "ee080dbf48", "2fcc381bc74cb4fbad2823a3d1f8fed2"),
            Vector(2, key, "ed793a51d49b8f5f", "ee080dbf48c0d1e5", "504dd2d05a7b0de9b2b9907afb5ecf8cc3"),
            Vector(0, key, "ed793a51d49b8f5fab", "ee080dbf48c0d1e55d", "125779c9cc86beb3a3a4a3ca96fce4bfe0cdbc"),
        ]

        /// By another implementation, which works in half bytes: one of each length, with random values.
        static let computed = [
            Vector(0, "cfd4ff12920009beb95510e1d3e6dc90", "6d", "d7f84ee5", "05aff8f66bf7"),
            Vector(1, "a9fc0aadc08890065d948c86d50c19f5", "d988", "ece6b8ad", "2616585976ba05"),
            Vector(6, "dbd65a163514a9f4875efca84ca0ded1", "49b23a", "ba4a1b22", "c7ad9552c3df1e39"),
            Vector(3, "c4893c0c3394b4bb2b3417c6510ceb47", "5cd7a452", "e1d7b81d", "6874c3843eee43ddec"),
            Vector(3, "d0e086b2969310a0f86b82ff3d661164", "f00f5cd76b", "c7866ad8", "69d30b4c118da1faa759"),
            Vector(2, "c086359df8bbc6f5ab6397064f8766fe", "d09606", "21419bb16ff32a", "4a68952aa41b4308a8185a"),
            Vector(4, "c5deb918bcb2b9973f9e4be522f1b785", "7a", "201c95681fb53a257cc8", "8b10a8193b8b1ba5d9c11cc2"),
            Vector(6, "323a68305114218634fdb020fc4b27f3", "ff3a", "407fd4caa99d9ca1ad52", "cc0451474261591b1873a63300"),
            Vector(
                0, "acdc46c5dfbba4752970f02a06c3e833", "5bd161e8cad60b715c", "caacbfff", "0ddb10d091e7d1672ba93b2c255f"),
            Vector(
                0, "e4ea83edb52581b9c26ab0ee4251e605", "66", "96344405d83fdbfb5fae51eba6",
                "0e2f3198443b1120a8193e4fdf61d3"),
            Vector(
                5, "5ae3c8b6b7c84244255c2edb08eba890", "87a17eea75e9", "ed4c99db37eb6e7874",
                "af532a91e508e9699d11b22cb87753ca"),
            Vector(
                2, "398ef13f36a1f56ecdc1b855e1ed7f01", "edcd", "be622fc5518c309cced542b0ba59",
                "50a659254d9228272d75ceb1dba444782a"),
            Vector(
                1, "ed31ae0312a805ae3e2c45548ce023d5", "d3699c7a2177223a33e3377d", "e7e8f24b7f",
                "310714f338f946e078900f31df577a6ee396"),
            Vector(
                3, "83226506daad45ec15f891bec253f1fd", "c5249955af4da63d82935312", "4eb1a15dfb3f",
                "721ea53107c920e489eb4b1b4ccbc3c3735311"),
            Vector(
                1, "30f446a839d58c8381ddc1b4bc2fb8aa", "daf62b9fcf399b039f", "49c57f8fb25866cd940b",
                "33b6f44eb8132be456fcbd80f93184d35abcf61e"),
        ]
    }

    private func bytes(_ digits: String) throws -> [UInt8] { try #require(Hexadecimal.bytes(Array(digits.utf8))) }

    private static let key = [UInt8](1...16)

    private func cipher(_ configuration: UInt8, serverIDLength: Int) throws -> ConnectionIDCipher {
        let cipher = ConnectionIDCipher(keys: [(configuration, Self.key)], serverIDLength: serverIDLength)
        return try #require(cipher)
    }

    private func cipher(_ vector: Vector) throws -> ConnectionIDCipher {
        try #require(
            ConnectionIDCipher(
                keys: [(vector.configuration, try bytes(vector.key))],
                serverIDLength: vector.serverID.utf8.count / 2))
    }

    @Test(arguments: Vector.published + Vector.computed)
    func `connection IDs are what QUIC-LB makes and reads`(_ vector: Vector) throws {
        let cipher = try cipher(vector)
        let id = try #require(cipher.encrypt(serverID: try bytes(vector.serverID), nonce: try bytes(vector.nonce)))
        #expect("\(id)" == vector.connectionID)
        let decrypted = try #require(cipher.decrypt(id))
        let (serverID, nonce) = (try bytes(vector.serverID), try bytes(vector.nonce))
        #expect(decrypted.serverID == serverID && decrypted.nonce == nonce)
    }

    @Test func `the first key makes connection IDs, and all keys read them`() throws {
        let keys: [(configuration: UInt8, key: [UInt8])] = [(3, Array(1...16)), (0, Array(2...17)), (6, Array(3...18))]
        let nonce: [UInt8] = [1, 2, 3, 4, 5, 6, 7, 8]
        let all = try #require(ConnectionIDCipher(keys: keys, serverIDLength: 1))
        for key in keys {
            let one = try #require(ConnectionIDCipher(keys: [key], serverIDLength: 1))
            let id = try #require(one.encrypt(serverID: [9], nonce: nonce))
            #expect(id.bytes[0] >> 5 == key.configuration)
            let read = try #require(all.decrypt(id))
            #expect(read.serverID == [9] && read.nonce == nonce)
        }
        let new = try #require(all.encrypt(serverID: [9], nonce: nonce))
        #expect(new.bytes[0] >> 5 == 3 && new.bytes[0] & 31 == 9)
        let other = try cipher(1, serverIDLength: 1)
        let foreign = try #require(other.encrypt(serverID: [9], nonce: nonce))
        #expect(all.decrypt(foreign) == nil)
    }

    @Test func `settings and lengths that QUIC-LB does not have are refused`() throws {
        let key = Self.key
        #expect(ConnectionIDCipher(keys: [], serverIDLength: 1) == nil)
        #expect(ConnectionIDCipher(keys: [(7, key)], serverIDLength: 1) == nil)
        #expect(ConnectionIDCipher(keys: [(1, key), (1, key)], serverIDLength: 1) == nil)
        #expect(ConnectionIDCipher(keys: [(1, Array(key.dropLast()))], serverIDLength: 1) == nil)
        #expect(ConnectionIDCipher(keys: [(1, key)], serverIDLength: 0) == nil)
        #expect(ConnectionIDCipher(keys: [(1, key)], serverIDLength: 16) == nil)
        let cipher = try cipher(1, serverIDLength: 2)
        #expect(cipher.encrypt(serverID: [1], nonce: [1, 2, 3, 4]) == nil)
        #expect(cipher.encrypt(serverID: [1, 2], nonce: [1, 2, 3]) == nil)
        #expect(cipher.encrypt(serverID: [1, 2], nonce: [UInt8](repeating: 1, count: 18)) == nil)
        #expect(cipher.decrypt(.empty) == nil)
    }

    @Test(arguments: 1...20 as ClosedRange<UInt64>)
    func `bytes that somebody has made up are read or refused, and never more`(_ seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        let cipher = try cipher(1, serverIDLength: 3)
        for count in 0...ConnectionID.maximumCount {
            var bytes = (0..<count).map { _ in UInt8(truncatingIfNeeded: random.next()) }
            for first in [
                1 << 5 | UInt8(truncatingIfNeeded: max(count, 1) - 1), UInt8(truncatingIfNeeded: random.next()),
            ] {
                if !bytes.isEmpty { bytes[0] = first }
                let read = cipher.decrypt(try #require(ConnectionID(bytes)))
                let isReadable = (8...20).contains(count) && Int(bytes[0] & 31) == count - 1 && bytes[0] >> 5 == 1
                #expect((read != nil) == isReadable)
                if let read { #expect(read.serverID.count == 3 && read.nonce.count == count - 4) }
            }
        }
    }

    @Test func `a record's connection ID is found by the length that it tells`() throws {
        let id: [UInt8] = [0x45, 1, 2, 3, 4, 5]
        let record: [UInt8] = [25, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 7] + id + [0, 1, 9]
        func found(_ bytes: [UInt8]) -> [UInt8]? {
            bytes.withUnsafeBytes { ConnectionID(selfDescribedIn: $0)?.bytes }
        }
        #expect(found(record) == id)
        for (position, value) in [(0, 23), (1, 0xfc), (4, 0)] as [(Int, UInt8)] {
            var other = record
            other[position] = value
            #expect(found(other) == nil, "byte \(position)")
        }
        for count in 0..<(record.count - 1) { #expect(found(Array(record.prefix(count))) == nil) }
        var long = record
        long[11] |= 0x1f
        #expect(found(long) == nil && found(long + [UInt8](repeating: 0, count: 40))?.count == 32)
    }

    @Test func `connection IDs are equal where their bytes are`() throws {
        let ids = try [[], [0], [0, 0], [1], [UInt8](repeating: 0, count: 32)].map { try #require(ConnectionID($0)) }
        for (index, one) in ids.enumerated() {
            for (place, other) in ids.enumerated() { #expect((one == other) == (index == place)) }
        }
        #expect(Set(ids).count == ids.count && ConnectionID([UInt8](repeating: 1, count: 33)) == nil)
        let random = try (0..<8).map { _ in try ConnectionID.random(count: 20) }
        #expect(Set(random).count == 8 && random.allSatisfy { $0.count == 20 })
    }
}
