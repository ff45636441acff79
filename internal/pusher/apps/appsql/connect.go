package appsql

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

const (
	// dialTimeout bounds the making of a connection.
	dialTimeout = 5 * time.Second
	// silence is how long a connection may say nothing while it is asked something. Every call
	// has its own limit; this one is for a cancellation that gets lost.
	silence = 30 * time.Second

	mysqlPort    = 3306
	postgresPort = 5432
)

// errURL never repeats the address, which holds a password.
var errURL = errors.New("the URL is not like mysql://user:password@host:3306/database " +
	"or postgres://user:password@host:5432/database")

// openMySQL returns a pool that has not connected yet.
func openMySQL(o Options) (*sql.DB, error) {
	c := mysql.NewConfig()
	c.Net, c.DBName = "tcp", o.Database
	c.Addr = net.JoinHostPort(o.Host, strconv.Itoa(cmp.Or(o.Port, mysqlPort)))
	if o.URL != "" {
		var err error
		if c, err = parseMySQL(o.URL); err != nil {
			return nil, err
		}
	}
	if c.User == "" {
		c.User = o.User
	}
	if c.Passwd == "" {
		c.Passwd = o.Password
	}
	c.Timeout = cmp.Or(c.Timeout, dialTimeout)
	c.ReadTimeout, c.WriteTimeout = cmp.Or(c.ReadTimeout, silence), cmp.Or(c.WriteTimeout, silence)
	c.Logger = &mysql.NopLogger{} // what it would say, errors say too
	c.InterpolateParams = true    // a question is one round trip
	if c.Params == nil {
		c.Params = map[string]string{}
	}
	if c.Params["sql_mode"] == "" {
		c.Params["sql_mode"] = "'STRICT_ALL_TABLES'" // refuse what does not fit, do not cut it
	}
	if c.TLSConfig == "" || o.TLS != TLSOff {
		host, _, err := net.SplitHostPort(c.Addr)
		if err != nil {
			host = c.Addr // a socket, or without a port
		}
		if c.TLS, err = o.tls(host); err != nil {
			return nil, err
		}
	}
	connector, err := mysql.NewConnector(c)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(connector), nil
}

// parseMySQL reads a URL, or a data source name as the driver writes it.
func parseMySQL(address string) (*mysql.Config, error) {
	if strings.Contains(address, "://") {
		u, err := url.Parse(address)
		if err != nil || u.Hostname() == "" || (u.Scheme != "mysql" && u.Scheme != "mariadb") {
			return nil, errURL
		}
		c := mysql.NewConfig()
		c.Net, c.DBName = "tcp", strings.TrimPrefix(u.Path, "/")
		c.Addr = net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), strconv.Itoa(mysqlPort)))
		c.User = u.User.Username()
		c.Passwd, _ = u.User.Password()
		address = c.FormatDSN()
		if u.RawQuery != "" {
			address += "?" + u.RawQuery
		}
	}
	c, err := mysql.ParseDSN(address)
	if err != nil {
		return nil, errURL
	}
	return c, nil
}

// openPostgres returns a pool that has not connected yet.
func openPostgres(o Options) (*sql.DB, error) {
	address := o.URL
	if address == "" {
		u := url.URL{
			Scheme: "postgres", Host: net.JoinHostPort(o.Host, strconv.Itoa(cmp.Or(o.Port, postgresPort))),
			User: url.UserPassword(o.User, o.Password), Path: "/" + o.Database, RawQuery: "sslmode=disable",
		}
		address = u.String()
	}
	c, err := pgx.ParseConfig(address)
	if err != nil {
		return nil, errURL
	}
	if o.URL != "" && c.Password == "" {
		c.Password = o.Password
		if u, err := url.Parse(o.URL); err == nil && u.User.Username() == "" && o.User != "" {
			c.User = o.User
		}
	}
	c.ConnectTimeout = cmp.Or(c.ConnectTimeout, dialTimeout)
	if c.RuntimeParams["application_name"] == "" {
		c.RuntimeParams["application_name"] = "parley"
	}
	if !strings.Contains(address, "default_query_exec_mode") {
		// No statements are kept prepared: poolers between do not like them.
		c.DefaultQueryExecMode = pgx.QueryExecModeExec
	}
	if o.TLS != TLSOff {
		if c.TLSConfig, err = o.tls(c.Host); err != nil {
			return nil, err
		}
		for _, other := range c.Fallbacks {
			if other.TLSConfig, err = o.tls(other.Host); err != nil {
				return nil, err
			}
		}
	}
	return stdlib.OpenDB(*c), nil
}

// tls returns how to speak TLS with a server of that name, nil for not.
func (o Options) tls(host string) (*tls.Config, error) {
	switch o.TLS {
	case TLSOn, TLSUnverified:
	case TLSOff, "":
		return nil, nil
	default:
		return nil, fmt.Errorf("there is no TLS %q", o.TLS)
	}
	c := &tls.Config{ServerName: host, InsecureSkipVerify: o.TLS == TLSUnverified} // because it was asked for
	if o.CAFile != "" {
		text, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read the authority of the database's certificate: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s holds no certificate in PEM", o.CAFile)
		}
	}
	if o.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("read the certificate for the database: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}
