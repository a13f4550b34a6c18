// A peer on pion/dtls 3. ../peer.c tells what it understands. Its server serves any number of clients at once.
//
// pion 3.1.5 resumes sessions by session ID alone, not by ticket (RFC 5077). With CIDs it cannot resume with itself: its
// server does not answer the extension in a resumed handshake, but puts the client's CID into its records
// (flight4bHandler), and neither side puts CIDs into the Finished of a resumed handshake (flight4b, flight5b), against RFC
// 9146, section 3. A server that reads such a Finished all the same has a sound connection with its client.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/gob"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pion/dtls/v3"
)

const receiveTimeout = 4 * time.Second

// movingSocket is a UDP socket that can be replaced by one with another port.
type movingSocket struct {
	mutex  sync.Mutex
	socket *net.UDPConn
	server *net.UDPAddr
}

func (moving *movingSocket) current() *net.UDPConn {
	moving.mutex.Lock()
	defer moving.mutex.Unlock()
	return moving.socket
}

func (moving *movingSocket) move(port int) {
	socket, err := net.ListenUDP("udp4", &net.UDPAddr{IP: moving.server.IP, Port: port})
	must("bind", err)
	moving.mutex.Lock()
	old := moving.socket
	moving.socket = socket
	moving.mutex.Unlock()
	if old != nil {
		old.Close()
	}
	fmt.Println("port", socket.LocalAddr().(*net.UDPAddr).Port)
}

func (moving *movingSocket) ReadFrom(bytes []byte) (int, net.Addr, error) {
	for {
		socket := moving.current()
		count, from, err := socket.ReadFrom(bytes)
		if err == nil || socket == moving.current() {
			return count, from, err
		}
	}
}

func (moving *movingSocket) WriteTo(bytes []byte, to net.Addr) (int, error) {
	return moving.current().WriteTo(bytes, to)
}
func (moving *movingSocket) Close() error                       { return moving.current().Close() }
func (moving *movingSocket) LocalAddr() net.Addr                { return moving.current().LocalAddr() }
func (moving *movingSocket) SetDeadline(at time.Time) error     { return moving.current().SetDeadline(at) }
func (moving *movingSocket) SetReadDeadline(at time.Time) error { return moving.current().SetReadDeadline(at) }
func (moving *movingSocket) SetWriteDeadline(at time.Time) error {
	return moving.current().SetWriteDeadline(at)
}

// sessions remembers sessions, and which of them have been asked for.
type sessions struct {
	mutex sync.Mutex
	byKey map[string]dtls.Session
	asked map[string]bool
}

func (store *sessions) Set(key []byte, session dtls.Session) error {
	store.mutex.Lock()
	defer store.mutex.Unlock()
	store.byKey[string(key)] = session
	return nil
}

func (store *sessions) Get(key []byte) (dtls.Session, error) {
	store.mutex.Lock()
	defer store.mutex.Unlock()
	session := store.byKey[string(key)]
	if session.ID != nil {
		store.asked[string(session.ID)] = true
	}
	return session, nil
}

// hasGiven tells whether a handshake with this session ID has resumed a session.
func (store *sessions) hasGiven(id []byte) bool {
	store.mutex.Lock()
	defer store.mutex.Unlock()
	return store.asked[string(id)]
}

func (store *sessions) Del(key []byte) error {
	store.mutex.Lock()
	defer store.mutex.Unlock()
	delete(store.byKey, string(key))
	return nil
}

func must(what string, err error) {
	if err != nil {
		fmt.Println(what, "failed:", err)
		os.Exit(1)
	}
}

// describe tells what a handshake has led to. The library tells CIDs only in a serialized state.
func describe(connection *dtls.Conn, store *sessions) string {
	state, _ := connection.ConnectionState()
	kind := "full"
	if store.hasGiven(state.SessionID) {
		kind = "resumed"
	}
	var cids struct{ LocalConnectionID, RemoteConnectionID []byte }
	serialized, err := state.MarshalBinary()
	must("state", err)
	must("state", gob.NewDecoder(bytes.NewReader(serialized)).Decode(&cids))
	name := func(cid []byte) string {
		if cid == nil {
			return "none"
		}
		return hex.EncodeToString(cid)
	}
	return fmt.Sprintf("handshake done: %s own=%s peer=%s",
		kind, name(cids.LocalConnectionID), name(cids.RemoteConnectionID))
}

func main() {
	if len(os.Args) < 3 {
		os.Exit(2)
	}
	address, err := net.ResolveUDPAddr("udp4", os.Args[2])
	must("address", err)
	store := &sessions{byKey: map[string]dtls.Session{}, asked: map[string]bool{}}
	// Without a server name: pion 3.1.5 waits for ever after a ServerHello that acknowledges one (RFC 6066, section 3).
	config := &dtls.Config{
		InsecureSkipVerify: true, SessionStore: store,
		CipherSuites: []dtls.CipherSuiteID{dtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
	}
	certificate, key := "", ""
	for _, option := range os.Args[3:] {
		name, value, _ := strings.Cut(option, "=")
		switch name {
		case "cid":
			cid, err := hex.DecodeString(value)
			must("cid", err)
			config.ConnectionIDGenerator = func() []byte { return cid }
		case "psk":
			identity, text, _ := strings.Cut(value, ":")
			psk, err := hex.DecodeString(text)
			must("psk", err)
			config.PSK = func([]byte) ([]byte, error) { return psk, nil }
			config.PSKIdentityHint = []byte(identity)
			config.CipherSuites = []dtls.CipherSuiteID{dtls.TLS_PSK_WITH_AES_128_GCM_SHA256}
		case "certificate":
			certificate = value
		case "key":
			key = value
		default:
			os.Exit(2)
		}
	}
	if certificate != "" {
		pair, err := tls.LoadX509KeyPair(certificate, key)
		must("certificate", err)
		config.Certificates = []tls.Certificate{pair}
	}
	if os.Args[1] == "server" {
		serve(address, config, store)
	} else {
		os.Exit(runClient(address, config, store))
	}
}

func serve(address *net.UDPAddr, config *dtls.Config, store *sessions) {
	listener, err := dtls.Listen("udp4", address, config)
	must("listen", err)
	fmt.Println("listening")
	for {
		accepted, err := listener.Accept()
		must("accept", err)
		go func() {
			connection := accepted.(*dtls.Conn)
			defer connection.Close()
			within, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			if err := connection.HandshakeContext(within); err != nil {
				fmt.Println("handshake failed:", err)
				return
			}
			fmt.Println(describe(connection, store))
			peer := connection.RemoteAddr().String()
			memory := make([]byte, 17000)
			for {
				count, err := connection.Read(memory)
				if err != nil {
					fmt.Println("closed")
					return
				}
				if now := connection.RemoteAddr().(*net.UDPAddr); now.String() != peer {
					peer = now.String()
					fmt.Println("the peer has moved to port", now.Port)
				}
				fmt.Printf("received %s\n", memory[:count])
				connection.Write(memory[:count])
				if bytes.HasPrefix(memory[:count], []byte("bye")) {
					fmt.Println("closed")
					return
				}
			}
		}()
	}
}

func connect(moving *movingSocket, config *dtls.Config, store *sessions) *dtls.Conn {
	connection, err := dtls.Client(moving, moving.server, config)
	must("client", err)
	within, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := connection.HandshakeContext(within); err != nil {
		fmt.Println("handshake failed:", err)
		return nil
	}
	fmt.Println(describe(connection, store))
	return connection
}

func runClient(server *net.UDPAddr, config *dtls.Config, store *sessions) int {
	moving := &movingSocket{server: server}
	moving.move(0)
	connection := connect(moving, config, store)
	if connection == nil {
		return 1
	}
	memory := make([]byte, 17000)
	receive := func() (string, bool) {
		connection.SetReadDeadline(time.Now().Add(receiveTimeout))
		count, err := connection.Read(memory)
		return string(memory[:max(count, 0)]), err == nil
	}
	input := bufio.NewScanner(os.Stdin)
	for input.Scan() {
		command, value, _ := strings.Cut(input.Text(), " ")
		switch command {
		case "send":
			connection.Write([]byte(value))
		case "receive":
			if text, ok := receive(); ok {
				fmt.Println("received", text)
			} else {
				fmt.Println("received nothing")
			}
		case "echo":
			count, _ := strconv.Atoi(value)
			echoed := 0
			for number := range count {
				message := fmt.Sprintf("message %d", number)
				connection.Write([]byte(message))
				if text, ok := receive(); ok && text == message {
					echoed++
				}
			}
			fmt.Printf("echoed %d of %d\n", echoed, count)
		case "move":
			port, _ := strconv.Atoi(value)
			moving.move(port)
		case "resume":
			connection.Close()
			moving.move(0)
			if connection = connect(moving, config, store); connection == nil {
				return 1
			}
		default:
			fmt.Println("unknown command:", input.Text())
			return 2
		}
	}
	connection.Close()
	return 0
}
