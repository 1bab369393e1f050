// pgjdbc: the branch in the JDBC URL; server-side prepared statements from the first use, a batch, one statement described first.
import java.net.URLEncoder;
import java.nio.charset.StandardCharsets;
import java.sql.*;
import java.util.Properties;

public class UseJdbc {
    public static void main(String[] arguments) throws Exception {
        String database = URLEncoder.encode(System.getenv("DATABASE"), StandardCharsets.UTF_8);
        String url = "jdbc:postgresql://" + System.getenv("HOST") + ":" + System.getenv("PORT") + "/" + database;
        Properties properties = new Properties();
        properties.setProperty("user", "postgres");
        properties.setProperty("password", System.getenv("PGPASSWORD"));
        properties.setProperty("ApplicationName", "pgjdbc");
        properties.setProperty("prepareThreshold", "1");
        properties.setProperty("sslmode", System.getenv("PGSSLMODE"));
        try (Connection connection = DriverManager.getConnection(url, properties)) {
            connection.setAutoCommit(false);
            try (Statement statement = connection.createStatement()) {
                statement.execute("create table jdbc_item (id int primary key, name text)");
                statement.execute("alter table jdbc_item add column price numeric(10, 2); create index jdbc_item_name on jdbc_item (name)");
            }
            try (PreparedStatement insert = connection.prepareStatement("insert into jdbc_item values (?, ?, ?)")) {
                insert.getParameterMetaData().getParameterCount();
                for (int id = 0; id < 20; id++) {
                    insert.setInt(1, id);
                    insert.setString(2, "n" + id);
                    insert.setBigDecimal(3, java.math.BigDecimal.ONE);
                    insert.addBatch();
                }
                insert.executeBatch();
            }
            connection.commit();
            try (Statement statement = connection.createStatement()) {
                statement.execute("create table jdbc_gone (a int)");
            }
            connection.rollback();
            try (PreparedStatement select = connection.prepareStatement("select name from jdbc_item where id = ?")) {
                for (int round = 0; round < 3; round++) {
                    select.setInt(1, 7);
                    try (ResultSet rows = select.executeQuery()) {
                        rows.next();
                        if (!rows.getString(1).equals("n7")) throw new IllegalStateException(rows.getString(1));
                    }
                }
            }
            try (ResultSet columns = connection.getMetaData().getColumns(null, "public", "jdbc_item", null)) {
                int count = 0;
                while (columns.next()) count++;
                if (count != 3) throw new IllegalStateException("columns: " + count);
            }
            connection.rollback();
            System.out.println("version " + connection.getMetaData().getDriverVersion());
        }
    }
}
