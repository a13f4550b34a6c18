import TestSupport

/// A setting of ``RichConfiguration`` that is refused, and what the operator is told.
struct WrongSetting: Sendable {
    var table: String
    var key: String
    /// As the file has it.
    var value: String
    /// A part of the message.
    var message: String

    private init(_ table: String, _ key: String, _ value: String, _ message: String) {
        (self.table, self.key, self.value, self.message) = (table, key, value, message)
    }

    /// One configuration after the other: each has one wrong setting of every key that has so many.
    static var rounds: [[WrongSetting]] {
        var rounds: [[WrongSetting]] = []
        for setting in all {
            let round = rounds.firstIndex { !$0.contains { $0.table == setting.table && $0.key == setting.key } }
            if let round { rounds[round].append(setting) } else { rounds.append([setting]) }
        }
        return rounds
    }

    static let all: [WrongSetting] =
        main + limits("limits") + service + limits("service.echo.limits") + socket("service.echo.socket") + identities
        + handlers + client + socket("client.out.socket")

    private static let main = [
        WrongSetting("", "workers", "-1", "an integer (0 is one per core), 0 to 1024, found -1"),
        WrongSetting("", "workers", "\"two\"", "0 to 1024, found the string \"two\""),
        WrongSetting("", "user", "\"no-such-user\"", "there is no user \"no-such-user\""),
        WrongSetting("", "group", "\"no-such-group\"", "there is no group \"no-such-group\""),
        WrongSetting(
            "", "recycle", "\"59s\"",
            "an integer of seconds, 60 to 2592000,"
                + " or a time such as \"7d\", or \"off\""),
        WrongSetting("", "stop_timeout", "601", "a number of seconds, 0 to 600, or a time such as \"30s\", found 601"),
        WrongSetting("", "log_level", "\"loud\"", "one of \"debug\", \"info\""),
        WrongSetting("", "log_format", "\"xml\"", "expected \"text\" or \"json\", found the string"),
        WrongSetting("", "cookie_secret_file", "\"short\"", "32 to 4096 random bytes, found 3 bytes"),
        WrongSetting("", "cookie_secret_file", "\"open.secret\"", "(mode 644); expected mode 600 or 640: chmod 600"),
        WrongSetting("", "allow_world_readable_secrets", "\"yes\"", "true or false, found the string \"yes\""),
        WrongSetting("", "watch", "\"yes\"", "true or false, found the string \"yes\""),
        WrongSetting("", "key_log_file", "\"cookie.secret\"", "contains other data"),
        WrongSetting("", "key_log_file", "\"/dev/null\"", "is not a regular file"),
        WrongSetting("", "session_cache", "4097", "an integer of MiB (0 is none), 0 to 4096, found 4097"),
        WrongSetting("control", "path", "\"control.sock\"", "the absolute path of a Unix socket, at most 107 bytes"),
        WrongSetting("control", "mode", "660", "a string of octal digits, \"0600\" to \"0777\", found 660"),
        WrongSetting("control", "mode", "\"0060\"", "a string of octal digits, \"0600\" to \"0777\""),
        WrongSetting("control", "group", "\"no-such-group\"", "there is no group \"no-such-group\""),
        WrongSetting("tickets", "key_file", "\"short\"", "\"short\" has 3 bytes; expected 80"),
        WrongSetting(
            "tickets", "rotation", "0",
            "an integer of seconds, 1 to 2592000,"
                + " or a time such as \"7d\", found 0"),
        WrongSetting("tickets", "rotation", "1", "expected 62 times the rotation at most"),
        WrongSetting(
            "tickets", "lifetime", "604801",
            "an integer of seconds, 1 to 604800,"
                + " or a time such as \"7d\", found 604801"),
        WrongSetting(
            "connection_ids", "key_file", "\"short\"", "\"short\", line 1: 1 words; expected a number, 0 to 6"),
        WrongSetting(
            "connection_ids", "key_file", "\"open.secret\"", "(mode 644); expected mode 600 or 640: chmod 600"),
        WrongSetting("connection_ids", "server_id", "\"0x1\"", "2 to 20 hexadecimal digits, two for each byte"),
        WrongSetting("resolver", "servers", "\"ns.example.org\"", "the address in numbers, or an array of several"),
    ]

    private static func limits(_ table: String) -> [WrongSetting] {
        [
            WrongSetting(table, "connections", "-1", "an integer (0 is no limit), 0 to 1000000000, found -1"),
            WrongSetting(table, "connections_per_prefix", "1.5", "0 to 1000000000, found 1.5"),
            WrongSetting(table, "handshakes", "true", "0 to 1000000000, found true"),
            WrongSetting(table, "handshakes_per_second", "-0.1", "a number (0 is no limit), 0 to 1000000, found -0.1"),
            WrongSetting(table, "handshakes_per_second_per_prefix", "\"1\"", "0 to 1000000, found the string \"1\""),
            WrongSetting(table, "ipv4_prefix", "33", "an integer of bits, 1 to 32, found 33"),
            WrongSetting(table, "ipv6_prefix", "0", "an integer of bits, 1 to 128, found 0"),
            WrongSetting(table, "largest_datagram", "16385", "an integer of bytes, 1 to 16384, found 16385"),
            WrongSetting(table, "datagrams_per_second", "0.5", "0 to 1000000000, found 0.5"),
            WrongSetting(table, "bytes_per_second", "1000000001", "0 to 1000000000, found 1000000001"),
            WrongSetting(table, "allow", "\"127.0.0.1/33\"", "expected a length of 0 to 32 after the /"),
            WrongSetting(table, "allow", "[]", "found an empty array"),
            WrongSetting(table, "deny", "[\"localhost\"]", "the address in numbers"),
            WrongSetting(table, "deny", "\"10.0.0.1/8\"", "expected the network \"10.0.0.0/8\" or the address"),
        ]
    }

    private static let service = [
        WrongSetting("service.echo", "listen", "\"localhost:4433\"", "the address in numbers, the port 1 to 65535"),
        WrongSetting("service.echo", "certificate", "\"missing.pem\"", "No such file or directory"),
        WrongSetting("service.echo", "certificate", "\"short\"", "the path of a PEM file with the certificate"),
        WrongSetting("service.echo", "private_key", "\"open.key\"", "every user may use \"open.key\" (mode 644)"),
        WrongSetting("service.echo", "ca", "\"short\"", "expected the path of a PEM file with the CA certificates"),
        WrongSetting("service.echo", "ca", "\"missing.pem\"", "No such file or directory"),
        WrongSetting("service.echo", "raw_public_key", "\"yes\"", "true or false, found the string \"yes\""),
        WrongSetting("service.echo", "client_public_keys", "\"short\"", "line 1: no key after the name \"abc\""),
        WrongSetting("service.echo", "client_public_keys", "\"missing.keys\"", "No such file or directory"),
        WrongSetting("service.echo", "client_certificate", "\"maybe\"", "one of \"none\", \"requested\", \"required\""),
        WrongSetting("service.echo", "crl", "\"server.pem\"", "no PEM CRL in it"),
        WrongSetting("service.echo", "crl", "[\"missing.pem\"]", "No such file or directory"),
        WrongSetting("service.echo", "unknown_name", "\"drop\"", "\"default\" or \"refuse\", found the string"),
        WrongSetting("service.echo", "by_address", "1", "true or false, found 1"),
        WrongSetting(
            "service.echo", "handshake_timeout", "1",
            "a number of seconds, 2 to 120,"
                + " or a time such as \"30s\", found 1"),
        WrongSetting(
            "service.echo", "idle_timeout", "-1",
            "a number of seconds, 0 to 34560000, or a time such as \"7d\", found -1"),
        WrongSetting("service.echo", "idle_timeout", "\"401d\"", "such as \"7d\", found the string \"401d\""),
        WrongSetting(
            "service.echo", "retransmission", "61",
            "a number of seconds, 1 to 60,"
                + " or a time such as \"30s\", found 61"),
        WrongSetting("service.echo", "retransmission", "60", "expected less than handshake_timeout"),
        WrongSetting("service.echo", "record_mtu", "\"auto\"", "256 to 65535, or \"handshake\", found the string"),
        WrongSetting(
            "client.out", "retransmission", "0.5",
            "a number of seconds, 1 to 60,"
                + " or a time such as \"30s\", found 0.5"),
        WrongSetting("client.out", "record_mtu", "255", "256 to 65535, or \"handshake\", found 255"),
        WrongSetting(
            "service.echo", "park_after", "\"2d\"",
            "an integer of seconds, 1 to 86400,"
                + " or a time such as \"12h\", or \"off\""),
        WrongSetting("service.echo", "policy", "\"ancient\"", "\"modern\" or \"legacy\", found the string \"ancient\""),
        WrongSetting("service.echo", "ciphers", "\"nonesuch\"", "expected an OpenSSL cipher list"),
        WrongSetting("service.echo", "groups", "\"X25519:nonesuch\"", "OpenSSL knows no group \"nonesuch\""),
        WrongSetting("service.echo", "signature_algorithms", "\"RSA+MD99\"", "no signature algorithm \"RSA+MD99\""),
        WrongSetting(
            "service.run", "signature_algorithms", "\"RSA+SHA256\"", "for certificates with ECDSA keys; expected"),
        WrongSetting("service.echo", "client_purpose", "\"server\"", "\"client\" or \"any\", found the string"),
        WrongSetting("service.run", "client_purpose", "\"any\"", "since clients are not asked for certificates"),
        WrongSetting("service.echo", "crl_check", "\"none\"", "\"chain\" or \"leaf\", found the string"),
        WrongSetting("service.run", "crl_check", "\"leaf\"", "since clients are not asked for certificates"),
        WrongSetting("service.echo", "session_tickets", "0", "true or false, found 0"),
        WrongSetting("service.echo", "resumption", "\"yes\"", "true or false, found the string \"yes\""),
        WrongSetting("service.echo", "minimum_version", "\"1.3\"", "\"1.0\" or \"1.2\", found the string \"1.3\""),
        WrongSetting("service.echo", "maximum_version", "1.2", "\"1.0\" or \"1.2\", found 1.2"),
        WrongSetting("service.echo", "maximum_version", "\"1.0\"", "expected a version that this OpenSSL supports"),
        WrongSetting("service.echo", "alpn", "[\"coap\", \"\"]", "each of 1 to 255 bytes"),
        WrongSetting("service.echo", "alpn", "[\"coap\", \"coap\"]", "\"coap\" is listed twice"),
        WrongSetting("service.echo", "renegotiation", "0", "true or false, found 0"),
        WrongSetting("service.echo", "mtu", "255", "an integer of bytes, 256 to 9000, found 255"),
        WrongSetting("service.echo", "connection_id", "9", "\"off\", or a number of bytes, 10 to 20, found 9"),
        WrongSetting("service.echo", "connection_id", "true", "a number of bytes, 10 to 20, found true"),
        WrongSetting("service.echo", "handler", "\"sing\"", "one of \"echo\", \"forward\", \"exec\", \"log\""),
        WrongSetting("service.echo", "handler", "\"forward\"", "\"forward\" needs its table"),
        WrongSetting("service.pass", "listen", "[\"127.0.0.1:0\"]", "the port 1 to 65535, found"),
        WrongSetting("service.pass", "private_key", "\"other.key\"", "\"other.key\": "),
        WrongSetting("service.run", "ocsp_staple", "\"short\"", "expected the path of a file with an OCSP response"),
        WrongSetting("service.pass", "by_address", "true", "expected tables [service.NAME.name.\"HOST\"] beside"),
        WrongSetting("service.pass", "client_certificate", "\"required\"", "nothing says which certificates are valid"),
        WrongSetting("service.collect", "passphrase_file", "\"wrong.passphrase\"", "\"wrong.passphrase\": "),
        WrongSetting("service.collect", "passphrase_file", "\"empty\"", "the first line of \"empty\" is empty"),
    ]

    private static func socket(_ table: String) -> [WrongSetting] {
        [
            WrongSetting(table, "receive_buffer", "1023", "an integer of bytes, 1024 to 16777216, found 1023"),
            WrongSetting(table, "send_buffer", "16777217", "an integer of bytes, 1024 to 16777216, found 16777217"),
            WrongSetting(table, "ttl", "256", "an integer, 0 to 255, found 256"),
            WrongSetting(table, "dscp", "64", "an integer, 0 to 63, found 64"),
            WrongSetting(table, "ttl", "0", "found 0, which Linux refuses there"),
            WrongSetting(table, "interface", "\"none0\"", "the name of a network interface of this machine"),
            WrongSetting(table, "ipv6_only", "\"no\"", "true or false, found the string \"no\""),
            WrongSetting(table, "fragment", "2", "true or false, found 2"),
            WrongSetting(table, "freebind", "\"yes\"", "true or false, found the string \"yes\""),
        ]
    }

    private static let named = "service.echo.name.\"*.localhost\""

    private static let identities = [
        WrongSetting(named, "certificate", "\"missing.pem\"", "No such file or directory"),
        WrongSetting(named, "private_key", "\"open.key\"", "every user may use \"open.key\" (mode 644)"),
        WrongSetting(named, "private_key", "\"sealed.key\"", "expected a passphrase_file beside it"),
        WrongSetting(named, "private_key", "\"other.key\"", "\"other.key\": "),
        WrongSetting(named, "passphrase_file", "\"missing\"", "No such file or directory"),
        WrongSetting(named, "ocsp_staple", "\"missing\"", "No such file or directory"),
        WrongSetting("service.echo.clients", "allow", "\"sensor-7\"", "\"sensor-7\": "),
        WrongSetting("service.echo.clients", "deny", "[\"sha256:00\"]", "\"sha256:00\": "),
        WrongSetting(
            "service.collect.authorize", "server", "\"/run/authz.sock\"",
            "expected \"unix:/PATH\", a path of at most 107 bytes, found the string \"/run/authz.sock\""),
        WrongSetting(
            "service.collect.authorize", "timeout", "61",
            "expected a number of seconds, 1 to 60,"
                + " or a time such as \"30s\", found 61"),
        WrongSetting(
            "service.collect.authorize", "cache", "-1", "expected an integer of answers, 0 to 1000000, found -1"),
        WrongSetting(
            "service.collect.authorize", "cache_time", "0",
            "expected an integer of seconds, 1 to 86400,"
                + " or a time such as \"12h\", found 0"),
        WrongSetting("service.echo.psk", "file", "\"open.psk\"", "(mode 644); expected mode 600 or 640: chmod 600"),
        WrongSetting("service.echo.psk", "file", "\"weak.psk\"", "\"weak.psk\", line 1: a key of 2 bytes"),
        WrongSetting("service.echo.psk", "file", "\"empty\"", "has no line IDENTITY:KEY"),
        WrongSetting(
            "service.echo.psk", "minimum_key_bytes", "0", "expected an integer of bytes, 1 to 64, found 0"),
        WrongSetting("service.echo.psk", "hint", "\"\"", "a text of 1 to 255 bytes, found the string \"\""),
    ]

    private static let handlers = [
        WrongSetting("service.pass.forward", "backend", "\"tcp:127.0.0.1:7\"", "found the string \"tcp:127.0.0.1:7\""),
        WrongSetting("service.pass.forward", "backend", "[\"udp:127.0.0.1\"]", "expected a port, 1 to 65535"),
        WrongSetting("service.pass.forward", "source", "\"127.0.0.1:0\"", "found the string \"127.0.0.1:0\""),
        WrongSetting("service.pass.forward", "source", "\"192.0.2.1\"", "no interface of this machine has the address"),
        WrongSetting("service.pass.forward", "source", "\"127.0.0.1:9-8\"", "found the string \"127.0.0.1:9-8\""),
        WrongSetting(
            "service.pass.forward", "interface", "\"a name of many bytes\"", "the name of a network interface"),
        WrongSetting("client.out", "source", "\"192.0.2.1\"", "no interface of this machine has the address"),
        WrongSetting("client.out", "interface", "\"wwan/0\"", "the name of a network interface, found the string"),
        WrongSetting("service.pass.forward", "park", "\"yes\"", "true or false, found the string \"yes\""),
        WrongSetting("service.pass.forward", "proxy_protocol", "2", "true or false, found 2"),
        WrongSetting(
            "service.pass.forward.rule.one", "server_name", "\"a b\"", "a host name in ASCII, a pattern of it"),
        WrongSetting("service.pass.forward.rule.one", "server_name", "[]", "found an empty array"),
        WrongSetting("service.pass.forward.rule.one", "alpn", "7", "an application protocol, a pattern of it with *"),
        WrongSetting("service.pass.forward.rule.one", "identity", "'a\\b'", "a backslash stands before * or another"),
        WrongSetting("service.pass.forward.rule.one", "certificate_name", "\"gateway\"", "expected one of \"cn:\""),
        WrongSetting("service.pass.forward.rule.one", "public_key", "7", "a name of a raw public key, a pattern of"),
        WrongSetting("service.pass.forward.rule.one", "label", "7", "a label of an authorizer's answer, a pattern of"),
        WrongSetting("service.pass.forward.rule.one", "backend", "\"tcp:127.0.0.1:7\"", "found the string \"tcp:"),
        WrongSetting(
            "service.pass.forward.rule.one", "refuse", "true", "a rule that refuses its clients has no backend"),
        WrongSetting("service.pass.forward.rule.one", "refuse", "1", "true or false, found 1"),
        WrongSetting(
            "service.pass.forward.health_check", "send", "\"hex:0\"", "two hexadecimal digits for each byte, 1"),
        WrongSetting(
            "service.pass.forward.health_check", "expect", "7", "two hexadecimal digits for each byte, with *"),
        WrongSetting(
            "service.pass.forward.health_check", "interval", "0.5",
            "a number of seconds, 1 to 3600,"
                + " or a time such as \"5m\", found 0.5"),
        WrongSetting(
            "service.pass.forward.health_check", "timeout", "61",
            "a number of seconds, 1 to 60,"
                + " or a time such as \"30s\", found 61"),
        WrongSetting("service.pass.forward.health_check", "timeout", "6", "expected at most the interval, which is"),
        WrongSetting("service.pass.forward.health_check", "fall", "0", "an integer, 1 to 100, found 0"),
        WrongSetting("service.pass.forward.health_check", "rise", "true", "an integer, 1 to 100, found true"),
        WrongSetting("service.run.exec", "command", "[\"cat\"]", "the program's absolute path"),
        WrongSetting("service.run.exec", "command", "\"/bin/none\"", "cannot find the program \"/bin/none\""),
        WrongSetting("service.run.exec", "programs_per_worker", "0", "an integer, 1 to 10000, found 0"),
        WrongSetting("service.run.exec", "memory", "1048577", "an integer of MiB, 1 to 1048576, found 1048577"),
        WrongSetting(
            "service.run.exec", "cpu_time", "0.5",
            "an integer of seconds, 1 to 86400,"
                + " or a time such as \"12h\", found 0.5"),
        WrongSetting("service.run.exec", "open_files", "2", "an integer, 3 to 524288, found 2"),
        WrongSetting("service.collect.log", "to", "\"file:messages\"", "the absolute path of a file"),
        WrongSetting("service.collect.log", "to", "\"printer\"", "\"journal\", \"syslog\" or \"file:/PATH\""),
        WrongSetting("service.collect.log", "format", "\"json\"", "\"plain\" or \"syslog\", found the string \"json\""),
    ]

    private static let client = [
        WrongSetting("client.out", "listen", "\"127.0.0.1\"", "the address in numbers, the port 1 to 65535"),
        WrongSetting("client.out", "connect", "\"127.0.0.1\"", "expected \"HOST:PORT\" or \"[IPv6 ADDRESS]:PORT\""),
        WrongSetting("client.out", "connect", "\"127.0.0.1:65536\"", "the port 1 to 65535"),
        WrongSetting("client.out", "server_name", "\"*.example.org\"", "a host name or an IP address"),
        WrongSetting("client.out", "verify", "0", "true or false, found 0"),
        WrongSetting("client.out", "ca", "\"short\"", "expected the path of a PEM file with the CA certificates"),
        WrongSetting("client.out", "server_public_keys", "\"short\"", "line 1: no key after the name \"abc\""),
        WrongSetting("client.out", "raw_public_key", "1", "true or false, found 1"),
        WrongSetting("client.out", "connection_id", "21", "\"off\", or a number of bytes, 0 to 20, found 21"),
        WrongSetting("client.out", "certificate", "\"missing.pem\"", "No such file or directory"),
        WrongSetting("client.out", "private_key", "\"open.key\"", "every user may use \"open.key\" (mode 644)"),
        WrongSetting("client.out", "private_key", "\"other.key\"", "\"other.key\": "),
        WrongSetting("client.out", "passphrase_file", "\"empty\"", "the first line of \"empty\" is empty"),
        WrongSetting("client.out", "ciphers", "\"nonesuch\"", "expected an OpenSSL cipher list"),
        WrongSetting("client.out", "groups", "\"nonesuch\"", "OpenSSL knows no group \"nonesuch\""),
        WrongSetting("client.out", "signature_algorithms", "\"\"", "an OpenSSL list of signature algorithms"),
        WrongSetting("client.out", "legacy_server", "\"no\"", "true or false, found the string \"no\""),
        WrongSetting("client.out", "minimum_version", "1", "\"1.0\" or \"1.2\", found 1"),
        WrongSetting("client.out", "maximum_version", "\"1.1\"", "\"1.0\" or \"1.2\", found the string \"1.1\""),
        WrongSetting("client.out", "maximum_version", "\"1.0\"", "expected a version that this OpenSSL supports"),
        WrongSetting("client.out", "alpn", "\"\"", "each of 1 to 255 bytes"),
        WrongSetting("client.out", "mtu", "9001", "an integer of bytes, 256 to 9000, found 9001"),
        WrongSetting(
            "client.out", "handshake_timeout", "121",
            "a number of seconds, 2 to 120,"
                + " or a time such as \"30s\", found 121"),
        WrongSetting("client.out", "idle_timeout", "1", "2 to 34560000, or 0 for no limit"),
        WrongSetting("client.out", "answer_timeout", "0.5", "1 to 86400, or 0 for no limit"),
        WrongSetting("client.out", "resumption", "\"no\"", "true or false, found the string \"no\""),
        WrongSetting("client.keys.psk", "file", "\"open.psk\"", "(mode 644); expected mode 600 or 640: chmod 600"),
        WrongSetting(
            "client.keys.psk", "minimum_key_bytes", "65", "expected an integer of bytes, 1 to 64, found 65"),
        WrongSetting("client.keys.psk", "identity", "7", "expected one of the identities in"),
        WrongSetting("client.keys.psk", "file", "\"missing\"", "No such file or directory"),
    ]
}
