"""Alembic: `migrate_alembic.py DATABASE N`: upgraded to the revision number N of two."""
import os
import pathlib
import sys
import tempfile
from urllib.parse import quote

from alembic import command
from alembic.config import Config

ENV = """
from alembic import context
import os, sqlalchemy
with sqlalchemy.create_engine(os.environ["MIGRATED"]).connect() as connection:
    context.configure(connection=connection, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
"""
REVISION = """
import sqlalchemy as sa
from alembic import op
revision = {revision!r}
down_revision = {down!r}
def upgrade():
    {up}
"""
database, upto = sys.argv[1], int(sys.argv[2])
os.environ["MIGRATED"] = (f"postgresql+psycopg://postgres@{os.environ['HOST']}:{os.environ['PORT']}/{quote(database, safe='')}"
                          "?application_name=alembic")
with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    (root / "versions").mkdir()
    (root / "env.py").write_text(ENV)
    (root / "versions" / "one.py").write_text(REVISION.format(
        revision="1", down=None, up="op.create_table('alembic_tool', sa.Column('id', sa.Integer, primary_key=True))"))
    (root / "versions" / "two.py").write_text(REVISION.format(
        revision="2", down="1", up="op.add_column('alembic_tool', sa.Column('price', sa.Numeric))"))
    config = Config()
    config.set_main_option("script_location", str(root))
    command.upgrade(config, str(upto))
